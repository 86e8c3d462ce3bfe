"""Types of the public names: the module itself loads each when it is first used."""

from ._backends import Backend as Backend
from ._discovery import PluginInfo as PluginInfo
from ._eligible import Place as Place
from ._pieces import collect as collect
from ._stores import StoreBackend as StoreBackend
from .content import Stored as Stored
from .errors import AllBackendsFailed as AllBackendsFailed
from .errors import AuthenticationError as AuthenticationError
from .errors import BackendError as BackendError
from .errors import BackendTimeout as BackendTimeout
from .errors import ConfigError as ConfigError
from .errors import ContentFilterError as ContentFilterError
from .errors import ContentNotFoundError as ContentNotFoundError
from .errors import ContextLengthError as ContextLengthError
from .errors import IncompleteAnswer as IncompleteAnswer
from .errors import InvalidModelError as InvalidModelError
from .errors import InvalidRequestError as InvalidRequestError
from .errors import ModelNotFoundError as ModelNotFoundError
from .errors import PointsmanError as PointsmanError
from .errors import QuotaError as QuotaError
from .errors import RateLimitError as RateLimitError
from .errors import UnavailableError as UnavailableError
from .errors import UnusableAnswer as UnusableAnswer
from .hookspecs import hookimpl as hookimpl
from .router import Router as Router
from .router import Stream as Stream
from .scope import Clock as Clock
from .scope import Scope as Scope
from .secret import Secret as Secret
from .store import Store as Store
from .values import Attempt as Attempt
from .values import Chunk as Chunk
from .values import Completion as Completion
from .values import Health as Health
from .values import Image as Image
from .values import Message as Message
from .values import ModelInfo as ModelInfo
from .values import Options as Options
from .values import Request as Request
from .values import State as State
from .values import Tool as Tool
from .values import ToolCall as ToolCall
from .values import Usage as Usage

__version__: str

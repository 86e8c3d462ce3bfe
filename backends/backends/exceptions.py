"""What a backend raises: the very classes of `pointsman`, under the names that the complaint generator uses."""

from pointsman import (
    AllBackendsFailed,
    AuthenticationError,
    BackendError,
    BackendTimeout,
    ConfigError,
    ContentFilterError,
    ModelNotFoundError,
    RateLimitError,
    UnavailableError,
)

__all__ = [
    "AllBackendsFailed",
    "AuthenticationError",
    "BackendError",
    "BackendTimeout",
    "ConfigError",
    "ContentFilterError",
    "ModelNotFoundError",
    "RateLimitError",
    "UnavailableError",
]

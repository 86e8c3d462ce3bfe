"""Hugging Face: its router to many hosts, or an endpoint of your own, given as `base_url`."""

from .hosted import HostedBackend


class HuggingFaceBackend(HostedBackend):
    """Asks a model of the Hub. Needs `pip install pointsman-hf`; token: HF_TOKEN, or HUGGINGFACE_API_KEY."""

    kind, name = "hf", "huggingface"

from .captioner import Captioner
from .mapper import PrefixMapper

__all__ = ["Captioner", "PrefixMapper"]

"""Images: bytes to pixels and back, and the reasons for refusing them."""

from shardmill.images.decode import MAX_PIXELS, decode_image, decode_mask, verify_image
from shardmill.images.encode import encode_image

__all__ = ["MAX_PIXELS", "decode_image", "decode_mask", "encode_image", "verify_image"]

"""Images: bytes to pixels and back, and the reasons for refusing them."""

from shardmill.images.budget import MAX_PIXELS, in_work
from shardmill.images.decode import decode_image, decode_mask, verify_head, verify_image
from shardmill.images.encode import encode_image

__all__ = ["MAX_PIXELS", "decode_image", "decode_mask", "encode_image", "in_work", "verify_head", "verify_image"]

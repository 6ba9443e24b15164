"""Images: bytes to pixels and back, and the reasons for refusing them."""

from shardmill.images.budget import MAX_PIXELS, in_work
from shardmill.images.decode import (
    StoredImage,
    decode_image,
    decode_mask,
    open_image,
    plain_jpeg_size,
    shows_as_stored,
    verify_head,
    verify_image,
)
from shardmill.images.encode import encode_image
from shardmill.images.formats import LONGEST_HEAD

__all__ = [
    "LONGEST_HEAD",
    "MAX_PIXELS",
    "StoredImage",
    "decode_image",
    "decode_mask",
    "encode_image",
    "in_work",
    "open_image",
    "plain_jpeg_size",
    "shows_as_stored",
    "verify_head",
    "verify_image",
]

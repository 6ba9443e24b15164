"""Why an image is refused: the phrases that rejects are counted by."""

EMPTY_FILE = "empty file"
NOT_AN_IMAGE = "not an image"
WRONG_EXTENSION = "wrong extension"
CORRUPT_IMAGE = "truncated or corrupt image"
TOO_MANY_PIXELS = "too many pixels"
UNSUPPORTED_PIXELS = "unsupported pixel format"
NOT_ENCODABLE = "cannot be encoded"

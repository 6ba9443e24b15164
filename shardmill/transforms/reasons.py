"""Why a sample cannot be transformed: the phrases that rejects are counted by, beside those of its images."""

TRANSFORM_FAILED = "transform failed"
MISSING_COMPONENT = "missing component"
SIZES_DIFFER = "sizes differ"
DUPLICATE_COMPONENT = "duplicate component"

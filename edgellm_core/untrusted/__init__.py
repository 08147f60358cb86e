"""Reads files that come from outside: one place that bounds what a hostile or damaged one can cost."""

from edgellm_core.untrusted.errors import CorruptJsonError, FileLimitError, NotAFileError, UnreadableFileError
from edgellm_core.untrusted.files import read_bytes, read_text, require_regular_file
from edgellm_core.untrusted.json_text import parse_json, read_json_object, read_json_value

__all__ = [
    "CorruptJsonError",
    "FileLimitError",
    "NotAFileError",
    "UnreadableFileError",
    "parse_json",
    "read_bytes",
    "read_json_object",
    "read_json_value",
    "read_text",
    "require_regular_file",
]

"""Decide whether a payload is the expected one: with jq, a JSON Schema, or text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mqttkit.errors import MissingPart, UsageError
from mqttkit.messages import Message

MismatchCheck = Callable[[Message], str]
"""Returns why a message is not the expected one, or an empty string if it is."""


def jq_check(program: str) -> MismatchCheck:
    """Return a check that a jq program yields true (anything but false and null) for a JSON payload.

    Raises UsageError if the program does not compile, MissingPart without the package jq.
    """
    try:
        import jq
    except ImportError as error:
        raise MissingPart("--match needs the package jq", hint="pip install 'mqttkit[expect]'") from error
    try:
        compiled = jq.compile(program)
    except ValueError as error:
        raise UsageError(f"--match {program!r} is not a jq program: {str(error).splitlines()[0]}") from error

    def check(message: Message) -> str:
        try:
            found = compiled.input_text(message.payload.decode()).first()
        except UnicodeDecodeError:
            return "the payload is not UTF-8"
        except StopIteration:
            found = None
        except ValueError as error:
            return str(error).splitlines()[0]
        return "" if found is not None and found is not False else f"{program} is {json.dumps(found)}"

    return check


def schema_check(path: Path) -> MismatchCheck:
    """Return a check that a payload is valid under a JSON Schema.

    Raises UsageError if the file is not a schema, MissingPart without the package jsonschema.
    """
    try:
        import jsonschema
    except ImportError as error:
        raise MissingPart("--schema needs the package jsonschema", hint="pip install 'mqttkit[expect]'") from error
    try:
        schema = json.loads(path.read_bytes())
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except OSError as error:
        raise UsageError(f"cannot read the schema {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    except jsonschema.SchemaError as error:
        raise UsageError(f"{path} is not a JSON Schema: {error.message}") from error
    validator = kind(schema)

    def check(message: Message) -> str:
        try:
            value: Any = json.loads(message.payload)
        except (ValueError, RecursionError):
            return "the payload is not JSON"
        for problem in validator.iter_errors(value):
            return f"{problem.json_path}: {problem.message}"
        return ""

    return check


def text_check(expected: bytes) -> MismatchCheck:
    """Return a check that a payload is exactly these bytes."""
    return lambda message: "" if message.payload == expected else "the payload is different"

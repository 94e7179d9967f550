"""Reads `.env` files. Needs the extra `pipelines`, if there is one."""

from pathlib import Path

from anyserve_worker.pipelines.core.errors import SetupError


def read_environment(path: Path) -> dict[str, str]:
    """The variables of the file; empty if it doesn't exist. Raises SetupError, which never has a value of the file."""
    if not path.is_file():
        return {}
    try:
        from dotenv import dotenv_values
    except ImportError:
        raise SetupError(f"{path} needs the extra `pipelines`: python-dotenv is not installed") from None
    try:
        variables = {name: value for name, value in dotenv_values(path).items() if value is not None}
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise SetupError(f"{path}: it is not UTF-8") from None
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name + value:
            raise SetupError(f"{path}: the variable {name!r} can't be in an environment, because of a NUL or a `=`")
    return variables

"""`python -m anyserve_worker.pipelines.http_api PATH`: checks a mapping, and shows requests without sending them."""

import json
import sys
from pathlib import Path

import click

from anyserve_worker.pipelines.core.errors import InvalidInput, SetupError
from anyserve_worker.pipelines.core.pipeline import Folder
from anyserve_worker.pipelines.core.request import ChatRequest
from anyserve_worker.pipelines.http_api.mappings import Api, BadMapping, read_api
from anyserve_worker.pipelines.http_api.pipeline import KIND, model_names, read_folder
from anyserve_worker.pipelines.limits import Limits
from anyserve_worker.pipelines.settings import FILE, read_settings


def read(path: Path) -> tuple[Api, str]:
    """The API, and its name of a model. Raises SetupError and ValueError."""
    if not path.is_dir():
        return read_api("", path, {}), "model"
    settings = read_settings(path, Limits())
    if settings.kind != KIND:
        raise SetupError(f"{path / FILE}: the pipeline is of the kind `{settings.kind}`")
    http, api = read_folder(Folder(path.name, path, settings.table))
    return api, next(iter(model_names(http, path.name).values()))


def show(api: Api, model: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    for streams in (False, True):
        body = {"model": model, "messages": messages, "stream": streams, "max_tokens": 100}
        try:
            path, sent, _ = api.requests.write(ChatRequest(model, messages, body), model)
        except InvalidInput as error:
            click.echo(f"# A request with a system message and max_tokens is refused: {error}")
            body = {"model": model, "messages": messages[1:], "stream": streams}
            path, sent, _ = api.requests.write(ChatRequest(model, messages[1:], body), model)
        click.echo(f"POST {path}")
        click.echo(json.dumps(sent, indent=2, ensure_ascii=False))
    key = api.mapping.key
    source = f"${key.env}" if key.env else "the setting api_key or api_key_file"
    click.echo(f"# The key is sent in the header {key.header}, from {source}.")


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
def main(path: Path) -> None:
    """Checks PATH, the folder of a pipeline or the file of a mapping, and shows the requests for a short chat."""
    try:
        show(*read(path))
    except (SetupError, BadMapping, InvalidInput, ValueError) as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

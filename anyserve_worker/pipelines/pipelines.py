"""All pipelines of a folder, which SIGHUP reads again."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator

from anyserve_worker.pipelines.core.errors import SetupError
from anyserve_worker.pipelines.folder import Definition, find_pipelines
from anyserve_worker.pipelines.options import PipelineOptions
from anyserve_worker.pipelines.served_pipeline import ModelStatus, ServedPipeline

log = logging.getLogger(__name__)


class Pipelines:
    def __init__(
        self, options: PipelineOptions, on_change: Callable[[], None], other_names: Collection[str] = ()
    ) -> None:
        """`on_change` is called when the models or their states have changed. `other_names`: models that are no
        pipelines; a pipeline's model with such a name is not served."""
        self._other_names = frozenset(other_names)
        self._hidden: set[tuple[str, str]] = set()
        """(pipeline, model) that are not served because of their names."""
        self._options = options
        self._on_change = on_change
        self._served: dict[str, ServedPipeline] = {}
        self._retiring: dict[ServedPipeline, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._reload_waits = False
        """Whether a requested reload has not read the folder yet."""
        self._closing = False
        self.tried = False
        """Whether each pipeline has been started once, with or without success."""

    def __iter__(self) -> Iterator[ServedPipeline]:
        return iter(self._served.values())

    def models(self) -> dict[str, tuple[ServedPipeline, ModelStatus]]:
        """The models by name. A name that several pipelines report is that of the pipeline with this name, so that no
        list of an upstream takes it, or else of the first."""
        models: dict[str, tuple[ServedPipeline, ModelStatus]] = {}
        hidden = set()
        own_names = {pipeline.name for pipeline in self for model in pipeline.models if model.name == pipeline.name}
        for pipeline in self:
            for model in pipeline.models:
                is_anothers = model.name in own_names and model.name != pipeline.name
                if model.name in models or model.name in self._other_names or is_anothers:
                    hidden.add((pipeline.name, model.name))
                else:
                    models[model.name] = pipeline, model
        for name, model_name in sorted(hidden - self._hidden):
            log.warning("model '%s' of pipeline '%s' is not served: another one has its name", model_name, name)
        self._hidden = hidden
        return models

    async def start(self) -> None:
        """Starts all pipelines and waits until each has been tried. Raises SetupError if the folder can't be read."""
        async with self._lock:
            for name, definition in (await asyncio.to_thread(find_pipelines, self._options)).items():
                self._served[name] = self._new(definition)
            if not self._served:
                log.warning("%s has no pipelines", self._options.folder)
            self._on_change()
            for pipeline in self._served.values():
                await pipeline.tried.wait()
            self.tried = True

    def request_reload(self) -> None:
        """Starts a `reload`, unless one waits already. No effect after `close`."""
        if not self._closing and not self._reload_waits:
            self._reload_waits = True
            task = asyncio.create_task(self.reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)

    async def reload(self) -> None:
        """Reads the folder again: starts new pipelines and changed ones, ends those that are gone."""
        async with self._lock:
            self._reload_waits = False
            try:
                found = await asyncio.to_thread(find_pipelines, self._options)
            except SetupError as error:
                log.error("the pipelines stay as they are: %s", error)
                return
            gone = [name for name in self._served if name not in found]
            changed = [
                name
                for name, definition in found.items()
                if (pipeline := self._served.get(name))
                and (definition.fingerprint != pipeline.definition.fingerprint or not pipeline.started)
            ]
            new = [name for name in found if name not in self._served]
            fields = {"new": ", ".join(new), "changed": ", ".join(changed), "gone": ", ".join(gone)}
            log.info("reading %s again", self._options.folder, extra={"fields": {k: v for k, v in fields.items() if v}})
            for name in gone:
                self._retire(self._served.pop(name))
            for name in new:
                self._served[name] = self._new(found[name])
            self._served = {name: self._served[name] for name in found}
            self._on_change()
            await asyncio.gather(*(self._replace(found[name]) for name in changed))
            for name in new:
                await self._served[name].tried.wait()

    async def close(self) -> None:
        """Ends all processes. Requests that still run fail."""
        self._closing = True
        for task in self._reloads:
            task.cancel()
        await asyncio.gather(*self._reloads, return_exceptions=True)
        for task in self._retiring.values():
            task.cancel()
        await asyncio.gather(*(pipeline.close() for pipeline in (*self._served.values(), *self._retiring)))

    def _new(self, definition: Definition) -> ServedPipeline:
        pipeline = ServedPipeline(definition, self._on_change)
        pipeline.run()
        return pipeline

    async def _replace(self, definition: Definition) -> None:
        """Starts the changed pipeline beside the old one, which stays if it works and the changed one doesn't."""
        old, new = self._served[definition.name], self._new(definition)
        try:
            await new.tried.wait()
        except asyncio.CancelledError:
            await new.close()
            raise
        if not new.started and old.started:
            log.error("pipeline '%s' stays as it was, since it can't be started as it is now", definition.name)
            await new.close()
            return
        self._served[definition.name] = new
        self._on_change()
        self._retire(old)

    def _retire(self, pipeline: ServedPipeline) -> None:
        task = self._retiring[pipeline] = asyncio.create_task(pipeline.retire())
        task.add_done_callback(lambda _: self._retiring.pop(pipeline, None))

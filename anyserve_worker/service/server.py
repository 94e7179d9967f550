"""The lifecycle of the gRPC server: listen, load, serve, drain."""

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from anyserve_common import addresses, tracing
from anyserve_common.addresses import AddressError
from anyserve_common.logs import log_fields
from anyserve_common.open_files import room_for
from anyserve_worker import __version__
from anyserve_worker.core.errors import LoadError
from anyserve_worker.llama import memory
from anyserve_worker.pipelines.core.errors import SetupError
from anyserve_worker.pipelines.options import PipelineOptions
from anyserve_worker.service.pipeline_models import PipelineModels
from anyserve_worker.service.progress import reporter
from anyserve_worker.service.repository import Repository
from anyserve_worker.service.server_options import ServerOptions
from anyserve_worker.service.servicer import InferenceServicer
from anyserve_worker.service.tls import TLSError, credentials, probe_address
from anyserve_worker.service.unparsable import UnparsableMessageInterceptor
from anyserve_worker.telemetry.metrics_server import MetricsServer
from anyserve_worker.telemetry.observer import Observer
from anyserve_worker.telemetry.tracing import new_tracer
from protos import grpc_predict_v2_pb2 as pb
from protos import grpc_predict_v2_pb2_grpc

if TYPE_CHECKING:  # these import llama.cpp
    from anyserve_worker.llama.load_trial import LoadTrials
    from anyserve_worker.service.gguf_model import GGUFModels

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MAX_MESSAGE_BYTES = 16 * 2**20
"""Bytes of a request: far more than the text that any context holds."""
MAX_CALLS = 8192
"""Concurrent calls; further ones get RESOURCE_EXHAUSTED. Each takes 20 KB, even before it has sent anything."""
MAX_CONNECTION_CALLS = MAX_CALLS // 2
"""Concurrent calls of one connection; the client's gRPC library holds further ones back until one has ended."""
LAST_CALLS_SECONDS = 0.5
"""Seconds that other calls get to end after the last inference call."""


def _channel_options(options: ServerOptions, n_ports: int) -> tuple[tuple[str, int], ...]:
    keepalive = options.keepalive_time
    return (
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", -1),
        # A second worker on the same port must fail, not share it.
        ("grpc.so_reuseport", 0),
        # contract.EXTENSION_PINGS allows one ping per second; half of that tolerates pings that arrive early.
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
        ("grpc.keepalive_permit_without_calls", 1),
        # Detects clients that have vanished, so that their sequences are aborted.
        ("grpc.keepalive_time_ms", round(keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", round(keepalive * 1000)),
        ("grpc.http2.ping_timeout_ms", round(keepalive * 1000)),  # else a minute, despite the line above
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_allowed_incoming_connections", room_for(options.max_connections * n_ports) // n_ports),  # per port
        ("grpc.server_handshake_timeout_ms", round(options.handshake_timeout * 1000)),
        ("grpc.max_concurrent_streams", MAX_CONNECTION_CALLS),
    )


class StartError(Exception):
    """The worker cannot serve; the message is one line."""


@dataclass(slots=True)
class Worker:
    """A server that listens on `hosts`. `port`: the actual one, if any free port was requested."""

    repository: Repository
    gguf: "GGUFModels | None"
    pipelines: PipelineModels | None
    hosts: list[str]
    port: int
    _server: grpc.aio.Server
    _servicer: InferenceServicer
    _health: health.aio.HealthServicer
    _probe: grpc.aio.Server
    _observer: Observer
    _metrics: list[MetricsServer]
    """One server per address."""
    metrics_url: str
    """Empty if metrics are off."""
    _starting: asyncio.Task[None] | None = None
    """Starts the pipelines; None before `load`."""

    @classmethod
    async def listen(
        cls, options: ServerOptions, gguf: "GGUFModels | None" = None, pipeline_options: PipelineOptions | None = None
    ) -> "Worker":
        """Starts a server that is live but not ready. `gguf`: its GGUF models, not loaded yet; None: it has none.
        `pipeline_options`: None: it has no pipelines. Raises StartError if it can't listen."""
        tracer = new_tracer() if tracing.wanted(options.tracing) else None
        observer = Observer(log_access=options.access_log, tracer=tracer)
        models = gguf.models if gguf else []
        for model in models:
            model.on_end = observer.record
        pipelines = None
        if pipeline_options:
            pipelines = PipelineModels(pipeline_options, observer.record, {model.name for model in models})
        repository = Repository(models, pipelines)
        try:
            hosts = addresses.usable(options.hosts)
        except AddressError as error:
            raise StartError(str(error)) from error
        server = grpc.aio.server(
            interceptors=(UnparsableMessageInterceptor(),),
            options=_channel_options(options, len(_grpc_hosts(hosts))),
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        servicer = InferenceServicer(repository)
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        health_servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            port = _bind(server, hosts, options)
            metrics, metrics_url = _metrics(options, hosts, repository, pipelines)
        except TLSError as error:
            raise StartError(f"cannot serve TLS: {error}") from error
        except AddressError as error:
            raise StartError(str(error)) from error
        probe = grpc.aio.server(interceptors=(UnparsableMessageInterceptor(),))
        if options.tls:
            health_pb2_grpc.add_HealthServicer_to_server(health_servicer, probe)
            try:
                _add_port(probe, probe_address(port))
            except AddressError as error:
                raise StartError(
                    f"another worker already serves TLS on port {port}: --healthcheck would check that one"
                ) from error
        worker = cls(
            *(repository, gguf, pipelines, hosts, port, server, servicer),
            *(health_servicer, probe, observer, metrics, metrics_url),
        )
        await worker._set_serving(False)
        await server.start()
        await probe.start()
        return worker

    async def load(self, trials: "LoadTrials | None") -> None:
        """Loads the models and then starts the pipelines; the worker is ready afterwards. `trials`: those of its GGUF
        models. Raises LoadError, also if there are only pipelines and none of them has started."""
        loaded = asyncio.Event()
        self._starting = asyncio.create_task(self._start_pipelines(loaded))
        try:
            if self.gguf and trials:
                await self.gguf.load(reporter(sys.stderr), trials.check)
            loaded.set()
            await asyncio.wait((self._starting,))
            if self._starting.cancelled():
                raise LoadError("the pipelines have not been started")
            self._starting.result()
        finally:
            self._starting.cancel()
        await self._set_serving(True)

    def cancel_loading(self) -> None:
        """Makes a running `load` end early, with a LoadError."""
        if self.gguf:
            self.gguf.cancel_loading()
        if self._starting:
            self._starting.cancel()

    async def _start_pipelines(self, loaded: asyncio.Event) -> None:
        """`loaded` is set when all GGUF models are loaded: a pipeline that is ready before would be the default
        model of a client that reads the index early."""
        if not self.pipelines:
            return
        await loaded.wait()
        pipelines = self.pipelines.pipelines
        try:
            await pipelines.start()
        except SetupError as error:
            raise LoadError(str(error)) from error
        if not self.gguf and not any(pipeline.started for pipeline in pipelines):
            raise LoadError("none of the pipelines can be served")

    @contextmanager
    def reloading_pipelines(self) -> Iterator[None]:
        """Reads the folder of the pipelines again at each SIGHUP in the block. Without pipelines, SIGHUP keeps its
        effect."""
        if self.pipelines is None:
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.pipelines.pipelines.request_reload)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def report_not_ready(self) -> None:
        """Reports not-ready but keeps accepting requests, so that load balancers can move away."""
        self._servicer.reports_ready = False
        await self._set_serving(False)

    async def drain(self, timeout: float) -> None:
        """Refuses new requests, gives running ones `timeout` seconds to finish, then stops."""
        await self._set_serving(False)
        self._servicer.drain()
        stopping = asyncio.create_task(self._server.stop(timeout))
        drained = asyncio.create_task(self._servicer.wait_until_drained())
        await asyncio.wait((stopping, drained), return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        # The remaining calls watch the health or keep a connection open. They would not end by themselves.
        if timeout > 0 and not stopping.done():  # grpc crashes if two stops of 0 s coincide
            await self._server.stop(min(timeout, LAST_CALLS_SECONDS))
        await stopping
        await self._probe.stop(0)
        if self.gguf:
            await self.gguf.close()
        if self.pipelines:
            await self.pipelines.pipelines.close()
        await asyncio.to_thread(self._close_telemetry)

    def _close_telemetry(self) -> None:
        for metrics in self._metrics:
            metrics.close()
        self._observer.close()

    async def _set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            await self._health.set(service, status)


def _grpc_hosts(hosts: list[str]) -> list[str]:
    """Returns one wildcard only, if there is any: gRPC binds it to all addresses of both families."""
    return [host for host in hosts if host in addresses.LOOPBACK_OF][:1] or hosts


def _bind(server: grpc.aio.Server, hosts: list[str], options: ServerOptions) -> int:
    """Listens on `hosts`. Returns the port, which is the same on all of them. Raises AddressError or TLSError."""
    # Our own sockets reveal errors: gRPC gives no reason, and no error for an address that a wildcard leaves out.
    listeners = addresses.bind(hosts, options.port)
    port = addresses.port_of(listeners)
    for listener in listeners:
        listener.close()
    for host in _grpc_hosts(hosts):
        # Each port has its own credentials: gRPC refuses to share those that reload their certificate.
        _add_port(server, addresses.endpoint(host, port), credentials(options.tls) if options.tls else None)
    return port


def _add_port(server: grpc.aio.Server, target: str, secret: grpc.ServerCredentials | None = None) -> None:
    """Raises AddressError."""
    try:
        if secret:
            server.add_secure_port(target, secret)
        else:
            server.add_insecure_port(target)
    except RuntimeError as error:
        raise AddressError(f"can't listen on {target}: it may be in use") from error


def _metrics(
    options: ServerOptions, hosts: list[str], repository: Repository, pipelines: PipelineModels | None
) -> tuple[list[MetricsServer], str]:
    """Returns the metrics servers, and a URL at which this machine reaches one of them. Raises AddressError."""
    if options.metrics_port is None:
        return [], ""
    from anyserve_worker.telemetry.metrics import CONTENT_TYPE, Metrics

    if options.metrics_hosts != options.hosts:
        hosts = addresses.usable(options.metrics_hosts)
    listeners, text = (
        addresses.listen(hosts, options.metrics_port, backlog=128),
        Metrics(repository, pipelines.pipelines if pipelines else ()).text,
    )
    endpoint = addresses.endpoint(addresses.reached_at(hosts[0]), addresses.port_of(listeners))
    return [MetricsServer(listener, text, CONTENT_TYPE) for listener in listeners], f"http://{endpoint}/metrics"


async def serve(
    options: ServerOptions,
    gguf: "GGUFModels | None",
    trials: "LoadTrials | None",
    pipeline_options: PipelineOptions | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT. `trials`: those of the GGUF models. Raises StartError or LoadError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    worker = await Worker.listen(options, gguf, pipeline_options)
    fields = {
        "version": __version__,
        "metrics": worker.metrics_url,
        "tracing": tracing.wanted(options.tracing) or None,
    }
    endpoints = ", ".join(addresses.endpoint(host, worker.port) for host in worker.hosts)
    log_fields(log, logging.INFO, f"listening on {endpoints}", fields)
    with worker.reloading_pipelines():
        await _serve_until(stop, worker, options, trials)


async def _serve_until(
    stop: asyncio.Event, worker: Worker, options: ServerOptions, trials: "LoadTrials | None"
) -> None:
    loading = asyncio.create_task(worker.load(trials))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    worker.cancel_loading()  # No effect if everything is loaded.
    if trials:
        trials.close()
    try:
        await loading
    except LoadError:
        await worker.drain(0)
        if stop.is_set():
            return
        raise
    log.info("ready: %s", ", ".join(model.name for model in worker.repository if model.ready))
    memory_trimming = asyncio.create_task(memory.return_unused())
    await stop.wait()
    memory_trimming.cancel()
    if options.drain_delay:
        log.info("not ready any more; draining in %g s", options.drain_delay)
        await worker.report_not_ready()
        stop.clear()
        with suppress(TimeoutError):  # a second signal ends the delay
            await asyncio.wait_for(stop.wait(), options.drain_delay)
    log.info("draining for at most %g s", options.drain_timeout)
    await worker.drain(options.drain_timeout)

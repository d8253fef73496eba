"""Run one bridge for each output, each in its thread and with its own session, and report them as one service."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack

from mqttkit.bridge.observe.health import Health, Sample, serve_health
from mqttkit.bridge.observe.service_manager import Notifier
from mqttkit.bridge.outputs.plan import Output, plan_outputs
from mqttkit.bridge.service import EX_TEMPFAIL, TICK, Bridge, RunOptions
from mqttkit.client.control import loop_ran_at
from mqttkit.errors import MqttkitError, UsageError
from mqttkit.settings import Settings
from mqttkit.stop import Stop

logger = logging.getLogger(__name__)

RESTART_SECONDS = 30.0
"""How long to wait before an output that ended with an error is started again."""


class RunningOutput:
    """One output: its bridge, which is started again after an error."""

    def __init__(self, output: Output, make: Callable[[Output], Bridge], *, restart: bool) -> None:
        """Check the output's settings; open nothing yet."""
        self.name = output.name
        self.bridge = make(output)
        self.failure: BaseException | None = None
        """Why the bridge does not run now."""
        self.code = 0
        self._output = output
        self._make = make
        self._restart = restart
        self._stop = Stop()

    def stop(self) -> None:
        """Ask the bridge to drain and stop. Only sets flags."""
        self._stop.set()
        self.bridge.stop()

    def run(self) -> None:
        """Run the bridge until it is stopped; after an error wait and start it again."""
        while True:
            try:
                self.code = self.bridge.run()
            except Exception as error:
                self.failure, self.code = error, 1
                level = logging.ERROR if isinstance(error, MqttkitError) else logging.CRITICAL
                cause = error if level == logging.CRITICAL else None
                logger.log(level, "output %s stopped: %s", self.name, error, exc_info=cause)
            else:
                return
            if not self._restart or self._stop.wait(RESTART_SECONDS):
                return
            self.bridge = self._make(self._output)
            if self._stop.is_set:
                return
            self.failure = None

    def health(self) -> Health:
        """Return what is wrong, with the output's name."""
        if self.failure is not None:
            return Health([], [f"{self.name}: {self.failure}"])
        if not self.bridge.is_built:
            return Health([], [f"{self.name}: starting"])
        found = self.bridge.health()
        parts = (found.not_live, found.not_ready, found.warnings)
        return Health(*([f"{self.name}: {reason}" for reason in reasons] for reasons in parts))


class OutputSet:
    """Several outputs as one service. Call `run` in the main thread; call `stop` anywhere, also in a signal handler."""

    def __init__(self, settings: Settings, options: RunOptions) -> None:
        """Check the settings; raise UsageError if an output cannot work. The first output has the will."""
        planned = plan_outputs(settings)

        def make(output: Output) -> Bridge:
            own = options if output is planned[0] else dataclasses.replace(options, will=None)
            return Bridge(output.settings, own, notifier=Notifier({}), route=output.route)

        self.outputs = [RunningOutput(output, make, restart=options.retry and not options.leave) for output in planned]
        _check_places(self.outputs)
        self._settings = settings.bridge
        self._notifier = Notifier()
        self._retry = options.retry
        self._stopped = False

    def stop(self) -> None:
        """Ask every output to drain and stop. Only sets flags."""
        self._stopped = True
        for output in self.outputs:
            output.stop()

    def run(self) -> int:
        """Run until every output has ended; return the exit code: 0 drained, 75 restart, otherwise 1.

        If `retry` is off, the first error of an output stops the others and is raised.
        """
        threads = [threading.Thread(target=output.run, name=f"output-{output.name}") for output in self.outputs]
        with ExitStack() as stack:
            serve_health(stack, self._settings, health=self.health, samples=self.samples)
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    while thread.is_alive():
                        thread.join(TICK)
                        self._look()
            except BaseException:
                self.stop()
                raise
        failure = next((output.failure for output in self.outputs if output.failure is not None), None)
        if failure is not None and not self._retry:
            raise failure
        codes = [output.code for output in self.outputs]
        return EX_TEMPFAIL if EX_TEMPFAIL in codes else max(codes)

    def health(self) -> Health:
        """Return what is wrong with any output. Call it from any thread."""
        found = [output.health() for output in self.outputs]
        return Health(
            [reason for one in found for reason in one.not_live],
            [reason for one in found for reason in one.not_ready],
            [reason for one in found for reason in one.warnings],
        )

    def samples(self) -> list[Sample]:
        """Return the samples of all outputs, each with the output's name. Call it from any thread."""
        running = [output for output in self.outputs if output.bridge.is_built]
        return [sample.of_output(output.name) for output in running for sample in output.bridge.samples()]

    def _look(self) -> None:
        """Report to the service manager; if one output must end, end all."""
        if any(output.code == EX_TEMPFAIL or (output.failure and not self._retry) for output in self.outputs):
            self.stop()
        health = self.health()
        built = [output.bridge for output in self.outputs if output.bridge.is_built]
        balances = " | ".join(str(bridge.pipeline.books.balance()) for bridge in built)
        if self._stopped:
            self._notifier.stopping()
        elif not health.not_ready:
            self._notifier.ready(balances)
        if not health.not_live:
            self._notifier.beat([(bridge.pipeline.progress, loop_ran_at(bridge.client)) for bridge in built])


def _check_places(outputs: list[RunningOutput]) -> None:
    """Raise UsageError if two addresses lead to one place: its sinks would repeat each other's requests."""
    places = [(output.bridge.place, output.bridge.settings.dead_letters) for output in outputs]
    if len(set(places)) < len(places):
        raise UsageError("two outputs store in the same place", hint="Give each its own sink, or its own dead_letters")


def bridge_service(settings: Settings, options: RunOptions) -> Bridge | OutputSet:
    """Return what runs these settings: one bridge, or several outputs. Raise UsageError."""
    return (OutputSet if settings.bridge.outputs else Bridge)(settings, options)

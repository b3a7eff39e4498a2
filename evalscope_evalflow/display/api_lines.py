"""What a person is shown of an API that fails, is busy, or says nothing."""

from __future__ import annotations

import time

from evalscope_evalflow.events import api_events as api

_WHOSE = {api.MODEL: "the API", api.JUDGE: "the judge"}


class ApiLines:
    """Makes lines of the events of one run's APIs, and keeps what is wrong with them now."""

    def __init__(self) -> None:
        self._trouble: dict[tuple[str, str], tuple[str, float]] = {}  # what is wrong, and since when
        self._answers: int | None = None

    def line(self, event: api.ApiEvent) -> tuple[str, bool]:
        """
        Args:
            event: what has happened.

        Returns:
            A line, and whether it is a warning.
        """
        key, now = (event.api, event.model), time.monotonic()
        short = {api.ApiBusy: "asks to wait", api.ApiSilent: "no answer"}.get(type(event))
        if isinstance(event, api.ApiDown):
            short = "hangs" if event.hangs else "down"
        if short is not None:
            since = now - event.seconds if isinstance(event, api.ApiSilent) else now
            self._trouble[key] = f"{_WHOSE[event.api]}: {short}", since
        elif not isinstance(event, api.ApiFailing):
            self._trouble.pop(key, None)
        return _line(event), not isinstance(event, (api.ApiBack, api.ApiSilent))

    def trouble(self, answers: int | None) -> str:
        """What is wrong now, as the end of a line; an answer ends a silence.

        Args:
            answers: how many are saved; None where that does not change.
        """
        if answers != self._answers:
            self._answers = answers
            self._trouble = {key: item for key, item in self._trouble.items() if not item[0].endswith("no answer")}
        now = time.monotonic()
        return "".join(f" ({what} for {now - since:.0f} s)" for what, since in self._trouble.values())


def _line(event: api.ApiEvent) -> str:
    where = f"{_WHOSE[event.api]} at {event.url}"
    match event:
        case api.ApiFailing(reason=reason, requests=requests):
            number = "a request" if requests == 1 else f"{requests} requests"
            return (
                f"{where} fails {number} ({reason}), but answers others; what failed is asked again as often as "
                "generation_config.retries says"
            )
        case api.ApiDown(reason=reason, hangs=hangs, give_up_s=give_up_s):
            what = "hangs" if hangs else "does not work"
            return (
                f"{where} {what}: {reason}; one request at a time asks again until it is answered, for "
                f"{give_up_s:.0f} s at most (deploy.stall_timeout_s)"
            )
        case api.ApiBusy(reason=reason, wait_s=wait_s):
            return f"{where} is busy ({reason}); it is asked again in {wait_s:.0f} s, as it wants"
        case api.ApiSilent(seconds=seconds, requests=requests, answers_probe=answers_probe):
            number = "1 request" if requests == 1 else f"{requests} requests"
            if answers_probe:
                why = "it answers a request of one token, so it is at work"
            else:
                why = "it was asked for one token to see whether it hangs"
            return f"no answer for {seconds:.0f} s from {where} to {number}; {why}"
        case api.ApiBack(seconds=seconds):
            return f"{where} answers again, after {seconds:.0f} s"
        case api.ApiGivenUp(reason=reason, seconds=seconds):
            after = f" after {seconds:.0f} s" if seconds else ""
            what = "answers" if event.api == api.MODEL else "verdicts"
            return (
                f"{where} was given up{after}: {reason}; the {what} that came are saved, and the same command asks for "
                "the others"
            )
    return ""

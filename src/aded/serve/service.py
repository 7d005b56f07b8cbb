"""From a request to its answers: what is checked, and in which order things are told."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from aded.drafters.base import Private
from aded.drafters.base import names as drafter_names
from aded.drafters.predicted import PredictedDrafter
from aded.engines.base.completion import Completer, Processor, Sampling, Steps
from aded.engines.base.loaded import LoadedModel
from aded.engines.base.options import MaxDraftTokens
from aded.errors import ContextFullError, SettingsError
from aded.serve.answers import Answering, Piece
from aded.serve.drafting import PLAIN, Drafters
from aded.serve.metrics import Metrics
from aded.serve.processors import Grammar, LogProbs, Penalties
from aded.serve.requests import MOST_CHOICES, ChatRequest, CompletionRequest
from aded.serve.tracing import facts_of
from aded.serve.worker import Choice, Job, Worker

Tell = Callable[[int, Piece], None]
_JSON_OBJECT = {"type": "object"}


@dataclass(frozen=True)
class Limits:
    """What a request may take.

    Attributes:
        parallel: requests answered in turns.
        most_waiting: requests that may wait besides.
        most_tokens: most tokens of an answer; None: as many as fit.
        temperature: of requests that say none.
    """

    parallel: int = 4
    most_waiting: int = 64
    most_tokens: int | None = None
    temperature: float = 1.0


@dataclass(eq=False)
class Asked:
    """A request on its way.

    Attributes:
        prompt_tokens: of all its prompts.
        answerings: its answers, by number.
        tools: whether calls of tools are looked for in them.
        first_s, last_s: seconds since it came until its first token and its end; None before them.
    """

    prompt_tokens: int
    tools: bool
    answerings: list[Answering] = field(default_factory=list)
    job: Job = field(init=False)
    began: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    last_s: float | None = None

    @property
    def seconds(self) -> float:
        """Since it came, to its end if it has one."""
        return time.perf_counter() - self.began if self.last_s is None else self.last_s

    @property
    def tokens(self) -> int:
        """Of all answers so far."""
        return sum(answering.emitted for answering in self.answerings)

    @property
    def accepted(self) -> int:
        """Of these, those that had been drafted."""
        return sum(answering.accepted for answering in self.answerings)

    @property
    def drafted(self) -> int:
        """Draft tokens that were verified."""
        return sum(answering.steps.drafted for answering in self.answerings)


@dataclass(frozen=True)
class _Wanted:
    """What is asked for in one of both forms.

    Attributes:
        logprobs: likeliest tokens to name at each position; None: no log-probabilities.
        schema: a JSON schema that answers follow; None: they follow none.
        tools: whether calls of tools are looked for.
        expected: ids that answers are expected to look like.
    """

    most_tokens: int | None
    logprobs: int | None = None
    schema: Any = None
    tools: bool = False
    expected: list[int] | None = None


class Service:
    """A loaded model, its drafters, and the line of requests."""

    def __init__(
        self,
        loaded: LoadedModel,
        completer: Completer,
        drafters: Drafters,
        max_draft_tokens: MaxDraftTokens = "auto",
        limits: Limits = Limits(),
    ) -> None:
        self.loaded, self.completer, self.drafters = loaded, completer, drafters
        self.max_draft_tokens, self.limits = max_draft_tokens, limits
        self.worker = Worker(completer, parallel=limits.parallel, most_waiting=limits.most_waiting)
        self.metrics = Metrics(lambda: self.worker.running, lambda: self.worker.waiting)

    def warm_up(self) -> None:
        """Let everything compile, and step times be measured, before somebody waits for it. Nothing is learned."""
        prompt = self.loaded.chat_tokens([{"role": "user", "content": "Say hello."}], [])
        first = self.drafters.of(None, None)
        scratch = first.scratch() if isinstance(first, Private) else first
        steps = Steps(lambda emitted, outcome: None)
        given: dict[str, Any] = {"drafter": scratch, "max_draft_tokens": self.max_draft_tokens, "steps": steps}
        self.completer.complete(prompt, Sampling(4), **given)
        assert self.facts

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the page shows of the server."""
        names = [*drafter_names(), PLAIN]
        facts = facts_of(self.loaded, self.drafters.name, names, self.loaded.step_cost())
        return facts | {"context": self.completer.context, "max_draft_tokens": self.max_draft_tokens}

    def close(self) -> None:
        """End what is running, and save what was learned."""
        self.worker.close()
        self.drafters.close()

    def chat(self, asked: ChatRequest, tenant: str | None, tell: Tell, done: Callable[[Any], None]) -> Asked:
        """Begin a request; see `_begin`."""
        tools = [tool.model_dump() for tool in asked.tools or []]
        if tools and not self.loaded.takes_tools:
            raise SettingsError(f"tools: the chat template of {self.loaded.name} has no place for them; leave them out")
        messages = [_for_template(message.as_template()) for message in asked.messages]
        tools = [] if asked.tool_choice == "none" else tools
        prompt = self.loaded.chat_tokens(messages, tools)
        schema: Any = None
        if (form := asked.response_format) is not None and form.type != "text":
            schema = _JSON_OBJECT
            if form.type == "json_schema":
                if form.json_schema is None or form.json_schema.schema_ is None:
                    raise SettingsError("response_format: the type json_schema needs json_schema with a schema in it")
                schema = form.json_schema.schema_
        if asked.top_logprobs and not asked.logprobs:
            raise SettingsError("top_logprobs: ask for logprobs as well")
        top = (asked.top_logprobs or 0) if asked.logprobs else None
        expected = None if asked.prediction is None else self.loaded.encode(asked.prediction.text)
        wanted = _Wanted(asked.most_tokens, top, schema, bool(tools), expected)
        return self._begin(asked, [prompt], wanted, tenant, tell, done)

    def completion(
        self, asked: CompletionRequest, tenant: str | None, tell: Tell, done: Callable[[Any], None]
    ) -> Asked:
        """Begin a request; see `_begin`."""
        prompts: list[Any] = asked.prompt if isinstance(asked.prompt, list) else [asked.prompt]
        if prompts and isinstance(prompts[0], int):
            prompts = [prompts]
        if not prompts or len(prompts) * (asked.n or 1) > MOST_CHOICES:
            raise SettingsError(f"prompt: from 1 to {MOST_CHOICES} answers can be asked for at once")
        tokens = [self._known(p) if isinstance(p, list) else self.loaded.text_tokens(p) for p in prompts]
        most = asked.max_tokens or 16  # as OpenAI's
        return self._begin(asked, tokens, _Wanted(most, asked.logprobs), tenant, tell, done)

    def _known(self, ids: list[int]) -> list[int]:
        if wrong := [token for token in ids if not 0 <= token < self.loaded.vocab_size]:
            raise SettingsError(f"prompt: {wrong[0]} is no token id; they are below {self.loaded.vocab_size}")
        return ids

    def _begin(
        self,
        asked: ChatRequest | CompletionRequest,
        prompts: Sequence[list[int]],
        wanted: _Wanted,
        tenant: str | None,
        tell: Tell,
        done: Callable[[Any], None],
    ) -> Asked:
        """Check a request and put it into the line.

        Args:
            tell: given each piece of an answer with the answer's number, in a thread of the worker.
            done: called when nothing follows, with what went wrong or None.

        Raises:
            SettingsError: it cannot be done as it was asked for.
            ContextFullError: it is too long.
            FullError: too many requests wait.
        """
        ours = asked.aded
        drafter = self.drafters.of(None if ours is None else ours.drafter, tenant)
        if drafter is not None and wanted.expected is not None:
            drafter = PredictedDrafter(drafter, [wanted.expected])
        most_drafted = self.max_draft_tokens
        if ours is not None and ours.max_draft_tokens is not None:
            most_drafted = ours.max_draft_tokens
        request = Asked(sum(map(len, prompts)), wanted.tools)
        seed = secrets.randbits(31) if asked.seed is None else asked.seed % 2**31
        temperature = self.limits.temperature if asked.temperature is None else float(asked.temperature)
        choices: list[Choice] = []
        for prompt in prompts:
            room = self._room(prompt, wanted.most_tokens)
            for _ in range(asked.n or 1):
                number = len(choices)
                noted = None if wanted.logprobs is None else LogProbs(wanted.logprobs)
                sampling = Sampling(
                    room,
                    temperature,
                    1.0 if asked.top_p is None else float(asked.top_p),
                    (seed + number) % 2**31,
                    self._processors(asked, prompt, noted, wanted.schema),
                )
                answering = Answering(
                    self.loaded,
                    sampling,
                    lambda piece, number=number: self._told(request, number, piece, tell),  # type: ignore[misc]
                    stop=asked.stops,
                    logprobs=noted,
                    trace=ours is not None and ours.trace,
                )
                request.answerings.append(answering)
                choices.append(Choice(prompt, sampling, answering))
        request.job = Job(choices, drafter, most_drafted, lambda error: self._ended(request, error, done))
        self.worker.submit(request.job)
        return request

    def _room(self, prompt: Sequence[int], most: int | None) -> int:
        """Most tokens of an answer."""
        if not prompt:
            raise SettingsError("the prompt is empty; give a text")
        left = self.completer.context - len(prompt)
        if left < 1 or (most is not None and most > left):
            raise ContextFullError(
                f"this model has room for {self.completer.context} tokens; {len(prompt)} of the prompt and "
                f"{most or 1} of the answer are more. Shorten the prompt, or ask for fewer tokens"
            )
        limits = [left if most is None else most, left if self.limits.most_tokens is None else self.limits.most_tokens]
        return min(limits)

    def _processors(
        self, asked: ChatRequest | CompletionRequest, prompt: list[int], noted: LogProbs | None, schema: Any
    ) -> list[Processor]:
        found: list[Processor] = [] if noted is None else [noted]
        presence, frequency = float(asked.presence_penalty or 0), float(asked.frequency_penalty or 0)
        if presence or frequency or asked.logit_bias:
            bias = {token: float(value) for token, value in (asked.logit_bias or {}).items()}
            size = self.loaded.vocab_size
            found.append(Penalties(len(prompt), size, presence=presence, frequency=frequency, bias=bias))
        if schema is not None:
            found.append(Grammar(self._tokenizer, len(prompt), schema))
        return found

    @cached_property
    def _tokenizer(self) -> Any:
        """llguidance's form of the model's."""
        return self.completer.grammar_tokenizer()

    def _told(self, request: Asked, number: int, piece: Piece, tell: Tell) -> None:
        if request.first_s is None:
            request.first_s = time.perf_counter() - request.began
            self.metrics.first_s.observe(request.first_s)
        tell(number, piece)
        if piece.finish is None:
            self.worker.after_step(request.job)

    def _ended(self, request: Asked, error: BaseException | None, done: Callable[[Any], None]) -> None:
        request.last_s = request.seconds
        self.metrics.whole_s.observe(request.last_s)
        for answering, choice in zip(request.answerings, request.job.choices, strict=True):
            if answering.emitted:
                self.metrics.count(len(choice.prompt), answering)
        done(error)


def _for_template(message: dict[str, Any]) -> dict[str, Any]:
    """A message with the arguments of calls as values: templates write them as JSON themselves."""
    for call in message.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            try:
                function["arguments"] = json.loads(function["arguments"])
            except (ValueError, RecursionError):
                continue
    return message

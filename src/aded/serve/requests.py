"""What clients may ask, in OpenAI's form. What is not understood is refused: no option is silently without effect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

MOST_CHOICES = 16  # answers of one request
MOST_TOP_LOGPROBS = 20  # as OpenAI's
_MOST_SEED = 2**63 - 1

Number = StrictFloat | StrictInt
Penalty = Annotated[Number, Field(ge=-2, le=2)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class StreamOptions(_Strict):
    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False  # nothing is padded here


class Ours(_Strict):
    """What this server knows beyond OpenAI's form, in the field `aded`.

    Attributes:
        drafter: another than the server's; "plain" decodes by the engine without us.
        max_draft_tokens: another limit than the server's.
        trace: tell with each step what was drafted and what became of it.
    """

    drafter: StrictStr | None = None
    max_draft_tokens: Annotated[StrictInt, Field(ge=0, le=1 << 16)] | Literal["auto"] | None = None
    trace: StrictBool = False


class _Request(_Strict):
    model: StrictStr | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), le=_MOST_SEED)] | None = None
    stop: StrictStr | Annotated[list[StrictStr], Field(max_length=16)] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MOST_CHOICES)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[StrictStr, Annotated[Number, Field(ge=-100, le=100)]] | None = None
    user: StrictStr | None = None
    aded: Ours | None = None

    @property
    def stops(self) -> list[str]:
        """Stop strings; empty ones say nothing."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in given if stop]


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: StrictStr | list[StrictStr] | list[StrictInt] | list[list[StrictInt]]
    logprobs: Annotated[StrictInt, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None


class _Part(_Strict):
    type: Literal["text"]
    text: StrictStr


def joined_text(content: str | list[_Part]) -> str:
    """All parts of a content."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


class Message(BaseModel):
    """A message of a conversation; what a template reads besides is passed on."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: StrictStr | list[_Part] | None = None

    def as_template(self) -> dict[str, Any]:
        """As chat templates read it."""
        said = self.model_dump(exclude_none=True)
        said["content"] = joined_text(self.content or "")
        if self.role == "developer":
            said["role"] = "system"
        return said


class _Function(BaseModel):
    name: Annotated[StrictStr, Field(min_length=1)]
    model_config = ConfigDict(extra="allow")


class Tool(_Strict):
    type: Literal["function"]
    function: _Function


class JsonSchema(_Strict):
    name: StrictStr | None = None
    description: StrictStr | None = None
    schema_: dict[str, Any] | StrictBool | None = Field(default=None, alias="schema")
    strict: StrictBool | None = None


class ResponseFormat(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class PredictedContent(_Strict):
    """What the answer is expected to look like."""

    type: Literal["content"]
    content: StrictStr | list[_Part]

    @property
    def text(self) -> str:
        return joined_text(self.content)


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    prediction: PredictedContent | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: StrictBool | None = None
    # Said to a service, not to a model.
    metadata: dict[str, Any] | None = None
    store: Literal[False] | None = None
    safety_identifier: StrictStr | None = None
    prompt_cache_key: StrictStr | None = None
    service_tier: StrictStr | None = None

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

"""llama-cpp-python's own server, every model accelerated: `python -m aded.llamacpp.server --model model.gguf`.

It takes that server's options, and three of ours in front of or among them. When it ends it says what drafts gained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from aded.drafters.base import names
from aded.engines.base.options import MaxDraftTokens
from aded.llamacpp import patch
from aded.stats import Stats, Timer
from aded.tree import Outcome

__all__ = ["main"]


class _Counts(Stats):
    """Of all requests, in bounded memory."""

    def add(self, outcomes: Sequence[Outcome], timer: Timer, *, first: bool) -> None:
        super().add(outcomes, timer, first=first)
        self.from_draft.clear()


def _most(text: str) -> MaxDraftTokens:
    if text == "auto":
        return "auto"
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"a number or auto, not {text!r}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until it is stopped.

    Args:
        arguments: in place of the command line's.
    """
    parser = argparse.ArgumentParser(
        prog="python -m aded.llamacpp.server",
        description="ADED's options; all others are those of llama-cpp-python's server:",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--aded-drafter", default="adaptive", choices=names(), help="who drafts (adaptive)")
    parser.add_argument("--aded-max-draft-tokens", type=_most, default="auto", help="most draft tokens a step (auto)")
    parser.add_argument(
        "--aded-share",
        default=None,
        choices=["answers", "nothing", "all"],
        help="what requests learn from each other (answers); see docs/privacy.md",
    )
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        parser.print_help()
        print()
    ours, others = parser.parse_known_args(given)
    try:
        from llama_cpp.server.__main__ import main as serve
    except ModuleNotFoundError as error:
        parser.exit(2, f'{error}; llama-cpp-python\'s server needs: pip install "llama-cpp-python[server]"\n')
    counts = _Counts()
    options = {"drafter": ours.aded_drafter, "max_draft_tokens": ours.aded_max_draft_tokens, "share": ours.aded_share}
    patch(**options, stats=counts)
    sys.argv = [parser.prog, *others]
    try:
        serve()  # type: ignore[no-untyped-call]
    finally:
        gained = f"{counts.accepted:,} of {counts.drafted:,} draft tokens accepted"
        print(f"ADED: {counts.tokens:,} tokens in {counts.steps:,} passes, {gained}", file=sys.stderr)


if __name__ == "__main__":
    main()

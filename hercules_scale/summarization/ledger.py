"""Ledger of calls to a model: each is stored before its answer is used, and never paid for twice.

Calls are stored in small files of JSON lines. Calls that end while a file is being written share
the next file, so a slow store delays no call. A killed run loses only the calls in flight.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.summarization.chat import Answer, ChatReply

FOLDER = f"{layout.WORK}/ledger"


@dataclass(frozen=True)
class Call:
    """One call, a row of ``llm_calls``.

    Attributes:
        level: Level of the cluster; 0 for an item.
        cluster_id: Id of the cluster; None where several shared the request.
        attempt: Number of the attempt, from 1.
        prompt_hash: SHA-256 of model, prompt and parameters, in hexadecimal.
        model: Name of the model.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of all answers.
        seconds: Seconds from request to reply.
        outcome: ``ok``, ``invalid``, ``error``, ``refused`` or ``timeout``.
        prompt: The prompt, with ``summaries.record_prompts``.
        response: The answers, with ``summaries.record_prompts``.
    """

    level: int
    cluster_id: int | None
    attempt: int
    prompt_hash: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    outcome: str
    prompt: str | None = None
    response: str | None = None


class Ledger:
    """Calls of a run, and their replies by prompt hash.

    ``on_call`` is called with every call that is added.

    Args:
        store: Output of the run; its stored calls are loaded.
        name: Name of the ledger; large runs keep several.
    """

    def __init__(self, store: Store, name: str = "clusters") -> None:
        self._store, self._folder = store, f"{FOLDER}/{name}"
        self._replies: dict[str, ChatReply] = {}
        self._unwritten: list[str] = []
        self._writing = asyncio.Lock()
        self.calls: list[Call] = []
        self.on_call: Callable[[Call], object] = lambda call: None
        for file in store.list_files(self._folder):
            for line in store.read_bytes(file).splitlines():
                # Lines that were cut off, as by a loss of power, count as calls in flight.
                with suppress(ValueError, TypeError, KeyError):
                    values = json.loads(line)
                    answers = values.pop("answers")
                    call = Call(**values)
                    self._keep(call, _reply(call, answers))

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens of all calls."""
        return (
            sum(call.prompt_tokens for call in self.calls),
            sum(call.completion_tokens for call in self.calls),
        )

    def find(self, prompt_hash: str) -> ChatReply | None:
        """Return the reply to an earlier call with the same hash, if there is one."""
        return self._replies.get(prompt_hash)

    async def add(self, call: Call, reply: ChatReply | None) -> None:
        """Store a call, and its reply if there is one."""
        self._keep(call, reply)
        self.on_call(call)
        answers = None if reply is None else [[a.text, a.finish_reason] for a in reply.answers]
        self._unwritten.append(json.dumps({**asdict(call), "answers": answers}))
        async with self._writing:
            # Another task may have written this call meanwhile.
            lines, self._unwritten = self._unwritten, []
            if lines:
                name = f"{self._folder}/{uuid.uuid4().hex}.jsonl"
                data = "\n".join(lines).encode()
                await asyncio.to_thread(self._store.write_bytes, name, data)

    def _keep(self, call: Call, reply: ChatReply | None) -> None:
        self.calls.append(call)
        if reply is not None:
            self._replies[call.prompt_hash] = reply


def _reply(call: Call, answers: list[list[str]] | None) -> ChatReply | None:
    if answers is None:
        return None
    kept = [Answer(text, reason) for text, reason in answers]
    return ChatReply(kept, call.prompt_tokens, call.completion_tokens)

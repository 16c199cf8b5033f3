"""vLLM through Ray Serve beside its offline ``LLM.chat``, and an endpoint that takes its time.

    python benchmarks/llm_throughput.py [--prompts 100] [--rounds 3] [--json OUT]

Prompts are those of clusters of ICD-10 codes, made as a run makes them. Both ways have the same
model, engine settings and sampling, and their own fresh engine; the first round is left out. The
endpoint is a local HTTP server that takes a second to answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hercules_scale.commands.demo import icd_table
from hercules_scale.config.file import parse_config
from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.config.summaries import SummariesConfig
from hercules_scale.models.names import resolve_chat_model
from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.serving.engine import engine_arguments
from hercules_scale.serving.vllm import REPETITION_PENALTY, serve_vllm
from hercules_scale.storage.store import Store
from hercules_scale.summarization.chat import ChatRequest, Model
from hercules_scale.summarization.clients import OpenAIClient
from hercules_scale.summarization.cluster_facts import ClusterFacts
from hercules_scale.summarization.labeller import Labeller
from hercules_scale.summarization.ledger import Ledger
from hercules_scale.summarization.model_calls import Asker
from hercules_scale.summarization.prompts import PromptStyle, answer_schema, build_messages
from hercules_scale.summarization.tokens import EstimatedTokens, ModelTokens

SLOW_CLUSTERS = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="where to write the figures")
    parser.add_argument("--offline", help=argparse.SUPPRESS)
    options = parser.parse_args()
    written = parse_config({"input": {"path": "-", "modality": "text"}, "output": {"path": "-"}})
    config = ResolvedConfig.of(written, written.input)
    if options.offline:
        Path(options.offline).write_text(json.dumps(offline(config, options)))
        return
    figures: dict[str, Any] = {"serve": serve(config, options)}
    # In a process of its own, whose memory is free again at its end.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "offline.json"
        arguments = ["--prompts", str(options.prompts), "--rounds", str(options.rounds)]
        subprocess.run([sys.executable, __file__, *arguments, "--offline", str(path)], check=True)
        figures["offline"] = json.loads(path.read_text())
    print(f"{'':<10}{'prompts/s':>11}{'tokens/s':>10}")
    for way in ("offline", "serve"):
        print(f"{way:<10}{figures[way]['prompts']:>11.2f}{figures[way]['tokens']:>10.0f}")
    ratio = figures["serve"]["tokens"] / figures["offline"]["tokens"]
    print(f"serve over offline, tokens: {ratio:.2f}")
    figures["slow_endpoint_seconds"] = slow_endpoint()
    print(
        f"endpoint of 1 s an answer, {SLOW_CLUSTERS:,} clusters: "
        f"{figures['slow_endpoint_seconds']:.0f} s, {SLOW_CLUSTERS} s one after another"
    )
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


def prompts(config: ResolvedConfig, n_prompts: int) -> list[list[dict[str, str]]]:
    """Prompts of clusters of codes that stand next to one another."""
    texts = icd_table()["text"].to_pylist()
    style = PromptStyle(
        ModelTokens(resolve_chat_model(config.summaries.model)),
        config.summaries.max_prompt_tokens,
        config.summaries.exemplar_tokens,
    )
    size = len(texts) // n_prompts
    found = []
    for cluster in range(n_prompts):
        own = texts[cluster * size : cluster * size + config.summaries.exemplars]
        phrases = [" ".join(text.split()[:2]).lower() for text in own]
        found.append(build_messages(ClusterFacts(1, cluster, size, phrases, own), style))
    return found


def request(config: ResolvedConfig, messages: list[dict[str, str]], seed: int) -> ChatRequest:
    return ChatRequest(messages, answer_schema(), 0.6, config.summaries.max_answer_tokens, seed)


def serve(config: ResolvedConfig, options: argparse.Namespace) -> dict[str, float]:
    questions = prompts(config, options.prompts)
    with (
        local_or_cluster_ray(config),
        serve_vllm(config, resolve_chat_model(config.summaries.model), 0, "bench") as model,
    ):
        return asyncio.run(_serve(config, options.rounds, questions, model))


async def _serve(
    config: ResolvedConfig, n_rounds: int, questions: list[list[dict[str, str]]], model: Model
) -> dict[str, float]:
    rates = []
    for seed in range(n_rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            # With the ledger, as a run has it.
            style = PromptStyle(EstimatedTokens(), config.summaries.max_prompt_tokens, 32)
            ledger = Ledger(Store(folder))
            asker = Asker(model, ledger, config.summaries, style)
            started = time.perf_counter()
            await asyncio.gather(
                *(
                    asker.ask(request(config, each, seed), 1, index, 1, lambda reply: reply)
                    for index, each in enumerate(questions)
                )
            )
            seconds = time.perf_counter() - started
            rates.append((len(questions) / seconds, ledger.tokens[1] / seconds))
    return _medians(rates[1:])


def offline(config: ResolvedConfig, options: argparse.Namespace) -> dict[str, float]:
    arguments, environment = engine_arguments(config, 0)
    os.environ.update(environment)
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    questions: list[Any] = list(prompts(config, options.prompts))
    model = LLM(resolve_chat_model(config.summaries.model), **arguments)
    rates = []
    for _ in range(options.rounds + 1):
        sampling = SamplingParams(
            temperature=0.6,
            max_tokens=config.summaries.max_answer_tokens,
            repetition_penalty=REPETITION_PENALTY,
            structured_outputs=StructuredOutputsParams(json=answer_schema()),
        )
        started = time.perf_counter()
        outputs = model.chat(questions, sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        n_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        rates.append((len(questions) / seconds, n_tokens / seconds))
    return _medians(rates[1:])


def _medians(rates: list[tuple[float, float]]) -> dict[str, float]:
    prompts_a_second, tokens_a_second = zip(*rates, strict=True)
    return {
        "prompts": statistics.median(prompts_a_second),
        "tokens": statistics.median(tokens_a_second),
    }


class _Slow(BaseHTTPRequestHandler):
    """Takes a second for every answer."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(1)
        text = '{"title": "Ferries of the north", "description": "When ferries leave."}'
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
        }
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "slow"}
        data = json.dumps({**answer, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def slow_endpoint() -> float:
    """Seconds to label clusters by an endpoint that takes a second an answer."""
    os.environ.setdefault("OPENAI_API_KEY", "none")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    config = SummariesConfig(engine="openai", model="slow", endpoint=url)
    style = PromptStyle(EstimatedTokens(), config.max_prompt_tokens, config.exemplar_tokens)
    facts = [ClusterFacts(1, each, 9, [f"ferry number {each}"]) for each in range(SLOW_CLUSTERS)]

    async def label(folder: str) -> float:
        model = Model(OpenAIClient(config), EstimatedTokens(), 32)
        asker = Asker(model, Ledger(Store(folder)), config, style)
        started = time.perf_counter()
        found = await Labeller(asker, config, style, 0).label(facts)
        assert all(each.complete for each in found.values())
        return time.perf_counter() - started

    try:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(label(folder))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    main()

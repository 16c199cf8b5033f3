"""The command line: ``hercules-scale``.

Libraries load inside the commands that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import functools
import sys
from typing import TYPE_CHECKING

import hercules_scale
from hercules_scale.errors import HerculesScaleError, InputError
from hercules_scale.sanitize import for_stream, printable, printable_lines, without_secrets

if TYPE_CHECKING:
    from hercules_scale.config.run import RunConfig

DEMO_OUTPUT = "runs/demo"
# Options of ``evaluate`` that say which model judges, and how.
JUDGE_OPTIONS = ("engine", "model", "endpoint", "criterion", "max_total_tokens")


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 1 the run failed, 2 the configuration or the input is wrong.
    """
    options = _parser().parse_args(arguments)
    try:
        if getattr(options, "storage", None):
            _use_storage(options.storage)
        options.command(options)
    except HerculesScaleError as error:
        # It may quote keys, ids and file names of strangers.
        print(f"hercules-scale: {printable(without_secrets(str(error)))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader, such as head, has what it wanted.
        sys.stderr.close()
        return 0
    except OSError as error:
        print(
            f"hercules-scale: {printable(str(error))}; check access to the storage", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print("hercules-scale: stopped; run again, it resumes", file=sys.stderr)
        return 1
    return 0


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hercules-scale",
        description="Hierarchies of clusters over millions of texts, with titles and descriptions.",
    )
    parser.add_argument("--version", action="version", version=hercules_scale.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the whole job; run again, it resumes")
    _add_config_arguments(run)
    _add_verbose_argument(run)
    run.set_defaults(command=_run)

    plan = commands.add_parser("plan", help="check everything and say what a run will take")
    _add_config_arguments(plan)
    plan.add_argument(
        "--show-prompt",
        metavar="LEVEL/ID",
        help="print the prompt for one cluster of the run at output.path, finished or not",
    )
    plan.set_defaults(command=_plan)

    submit = commands.add_parser("submit", help="run the job on a Ray cluster; again, it resumes")
    _add_config_arguments(submit)
    submit.add_argument(
        "--address", required=True, metavar="URL", help="Ray's dashboard, such as http://HEAD:8265"
    )
    submit.add_argument("--no-wait", action="store_true", help="do not follow the job's log")
    submit.add_argument(
        "--env",
        action="append",
        metavar="NAME",
        help="variable of this machine that goes with the job; may be repeated; default: keys, "
        "region and endpoint of S3 and Azure, OPENAI_API_KEY and OPENAI_BASE_URL, where set",
    )
    submit.add_argument(
        "--no-env", action="store_true", help="none goes with it; the nodes have their own"
    )
    submit.add_argument("--again", action="store_true", help="though its job succeeded before")
    submit.add_argument("--stop", action="store_true", help="stop the run's job instead")
    submit.set_defaults(command=_submit)

    status = commands.add_parser("status", help="say how far a run is, stage by stage")
    status.add_argument("run", metavar="RUN", help="output path of a run, finished or not")
    status.set_defaults(command=_status)

    show = commands.add_parser("show", help="print the tree, or one cluster")
    show.add_argument("run", metavar="RUN", help="output of a finished run, a path or URI")
    show.add_argument("--level", type=int, help="level to begin at; 1 is the finest")
    show.add_argument("--depth", type=int, help="levels to show")
    show.add_argument("--cluster", metavar="LEVEL/ID", help="one cluster in full")
    show.set_defaults(command=_show)

    evaluate = commands.add_parser("evaluate", help="measure a finished run again")
    evaluate.add_argument("run", metavar="RUN", help="output of a finished run, a path or URI")
    evaluate.add_argument(
        "--labels",
        action="append",
        metavar="COLUMN",
        help="ground truth of the run to compare with; may be repeated; default: all it has",
    )
    evaluate.add_argument(
        "--judge",
        action="store_true",
        help="ask a language model which titles fit the items, and for a codebook of its own",
    )
    evaluate.add_argument(
        "--judge-engine",
        "--engine",
        dest="engine",
        choices=["vllm", "openai"],
        help="engine of the judge; default: the run's own",
    )
    evaluate.add_argument(
        "--judge-model",
        "--model",
        dest="model",
        metavar="NAME",
        help="model of the judge; default: the run's own",
    )
    evaluate.add_argument(
        "--endpoint", metavar="URL", help="endpoint of the judge, with --judge-engine openai"
    )
    evaluate.add_argument(
        "--criterion",
        metavar="SENTENCE",
        help="how items differ for the judge; default: the run's topic, or their main subject",
    )
    evaluate.add_argument(
        "--max-total-tokens", type=int, metavar="N", help="stop the judge before more than these"
    )
    _add_redact_argument(evaluate)
    evaluate.set_defaults(command=_evaluate)

    export = commands.add_parser("export", help="write the tree or the memberships as one file")
    export.add_argument("run", metavar="RUN", help="output of a finished run, a path or URI")
    export.add_argument(
        "--format",
        required=True,
        choices=["json", "csv", "html"],
        help="json: the tree; csv: a row an item; html: a page to read the tree in",
    )
    export.add_argument("--output", metavar="PATH", help="default: the run's name, in this folder")
    export.add_argument(
        "--layout",
        choices=["tree", "pyhercules"],
        help="of json: our own, or the model that pyhercules 1.1.1 loads; default: tree",
    )
    export.add_argument("--items", action="store_true", help="json: every item's clusters too")
    export.add_argument("--force", action="store_true", help="replace a file that is there")
    export.set_defaults(command=_export)

    import_ = commands.add_parser("import", help="read a model that pyhercules saved as JSON")
    import_.add_argument("model", metavar="MODEL.json", help="path or URI of the model")
    import_.add_argument("--output", required=True, metavar="URI", help="where the tables go")
    import_.set_defaults(command=_import)

    assign = commands.add_parser("assign", help="put new items into the clusters of a run")
    assign.add_argument("run", metavar="RUN", help="output of a finished run, a path or URI")
    assign.add_argument("input", metavar="INPUT", help="new items: a file, folder or glob")
    assign.add_argument("--output", metavar="URI", required=True, help="a new folder")
    _add_redact_argument(assign)
    assign.add_argument(
        "--endpoint", metavar="URL", help="of a run that described its items by one: the same"
    )
    assign.set_defaults(command=_assign)

    explore = commands.add_parser("explore", help="look at runs in a browser")
    explore.add_argument(
        "runs", metavar="RUN", nargs="+", help="outputs of runs, finished or not; the first opens"
    )
    explore.add_argument("--port", type=int, default=8760, help="default: 8760; 0 is any")
    explore.add_argument(
        "--host", default="127.0.0.1", help="default: 127.0.0.1; others ask for a token"
    )
    explore.add_argument(
        "--work",
        metavar="FOLDER",
        help="of runs that are started from the page; default: runs/explorer, with another host "
        "none",
    )
    explore.add_argument(
        "--input",
        dest="inputs",
        action="append",
        metavar="URI",
        help="what such runs may be of besides files that are sent; may be repeated",
    )
    explore.set_defaults(command=_explore)

    serve = commands.add_parser("serve", help="serve the language model alone, until stopped")
    _add_config_arguments(serve)
    serve.add_argument("--port", type=int, default=8000, help="default: 8000")
    serve.set_defaults(command=_serve)

    for command in (status, show, evaluate, export, import_, assign, explore):
        _add_storage_argument(command)

    demo = commands.add_parser("demo", help="run the job on a real corpus from installed packages")
    demo.add_argument("--output", default=DEMO_OUTPUT, metavar="URI", help="default: runs/demo")
    demo.add_argument(
        "--corpus",
        default="news",
        choices=["news", "icd10"],
        help="news: titles and leads of articles; icd10: codes of diseases, with ground truth",
    )
    _add_verbose_argument(demo)
    demo.set_defaults(command=_demo)
    return parser


def _add_verbose_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--verbose", action="store_true", help="end with tables, metrics and stages"
    )


def _add_redact_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--redact",
        metavar="MODULE:FUNCTION",
        help="privacy.redact of the run, where it has one: you trust it to be called",
    )


def _add_storage_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="storage",
        action="append",
        metavar="storage.key=value",
        help="how RUN is reached, such as storage.endpoint=http://minio:9000; may be repeated",
    )


def _use_storage(overrides: list[str]) -> None:
    from hercules_scale.config.file import storage_options
    from hercules_scale.storage.store import use_options

    use_options(storage_options(overrides))


def _add_config_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="CONFIG.yaml", help="configuration of the run")
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="a.b=value",
        help="change one key, such as hierarchy.seed=1; may be repeated",
    )
    command.add_argument("--output", metavar="URI", help="same as --set output.path=URI")


def _say(text: str) -> None:
    """Print lines that may quote titles, ids and file names of strangers."""
    print(for_stream(printable_lines(text), sys.stdout))


def _load(options: argparse.Namespace) -> RunConfig:
    from hercules_scale.config.file import load_config

    overrides = list(options.overrides)
    if options.output is not None:
        import json

        overrides.append(f"output.path={json.dumps(options.output)}")
    return load_config(options.config, overrides)


def _run(options: argparse.Namespace) -> None:
    config = _load(options)
    from hercules_scale.jobs.cluster import run

    run(config)
    _print_result(config.output.path, options.verbose)


def _plan(options: argparse.Namespace) -> None:
    config = _load(options)
    from hercules_scale.commands.plan import make_plan, show_prompt

    if options.show_prompt is None:
        _say(make_plan(config))
    else:
        _say(show_prompt(config, *_cluster_name("--show-prompt", options.show_prompt)))


def _submit(options: argparse.Namespace) -> None:
    config = _load(options)
    if options.env and options.no_env:
        raise InputError("--env and --no-env exclude one another; give one of them")
    from hercules_scale.commands import submit

    def say(line: str) -> None:
        print(line, flush=True)

    if options.stop:
        submit.stop(config, options.address, say)
        return
    variables = [] if options.no_env else options.env
    submit.submit(
        config,
        options.address,
        say,
        wait=not options.no_wait,
        variables=variables,
        again=options.again,
    )


def _serve(options: argparse.Namespace) -> None:
    config = _load(options)
    if not 1 <= options.port <= 65535:
        raise InputError(f"--port must be from 1 to 65535, got {options.port}")
    from hercules_scale.commands.serve import serve_model

    serve_model(config, options.port)


def _demo(options: argparse.Namespace) -> None:
    from hercules_scale.commands.demo import demo_config
    from hercules_scale.hierarchy import Hierarchy
    from hercules_scale.jobs.cluster import run

    run(demo_config(options.output, options.corpus))
    Hierarchy.open(options.output).tree()
    _print_result(options.output, options.verbose)


def _status(options: argparse.Namespace) -> None:
    from hercules_scale.results.status import describe_status

    _say(describe_status(options.run))


def _show(options: argparse.Namespace) -> None:
    from hercules_scale.hierarchy import Hierarchy

    hierarchy = Hierarchy.open(options.run)
    if options.cluster is None:
        hierarchy.tree(options.depth, options.level)
    else:
        from hercules_scale.commands.show import describe_cluster

        _say(describe_cluster(hierarchy, *_cluster_name("--cluster", options.cluster)))


def _evaluate(options: argparse.Namespace) -> None:
    from hercules_scale.commands.show import describe_metrics
    from hercules_scale.hierarchy import Hierarchy
    from hercules_scale.jobs.evaluate import evaluate_run

    asked = {name: getattr(options, name) for name in JUDGE_OPTIONS}
    given = {name: value for name, value in asked.items() if value is not None}
    if given and not options.judge:
        name = next(iter(given)).replace("_", "-")
        name = f"judge-{name}" if name in ("engine", "model") else name
        raise InputError(f"--{name} needs --judge; add it, or leave --{name} out")
    judge = given if options.judge else None
    notes = evaluate_run(options.run, options.labels, judge, options.redact)
    lines = [*describe_metrics(Hierarchy.open(options.run).evaluations()), ""]
    lines += [f"! {note}" for note in notes]
    _say("\n".join([*lines, f"written: {options.run.rstrip('/')}/evaluations"]))


def _export(options: argparse.Namespace) -> None:
    from hercules_scale.hierarchy import Hierarchy

    for option in ("layout", "items"):
        if getattr(options, option) and options.format != "json":
            raise InputError(f"--{option} goes with --format json alone, got {options.format}")
    if options.items and options.layout == "pyhercules":
        raise InputError("--items: layout pyhercules holds the items already; leave it out")
    hierarchy = Hierarchy.open(options.run)
    path = options.output
    if path is None:
        suffix = ".pyhercules" if options.layout == "pyhercules" else ""
        path = f"{hierarchy.name}{suffix}.{options.format}"
    if options.format == "json":
        layout = options.layout or "tree"
        hierarchy.to_json(path, items=options.items, layout=layout, overwrite=options.force)
    elif options.format == "csv":
        hierarchy.to_csv(path, overwrite=options.force)
    else:
        hierarchy.to_html(path, overwrite=options.force)
    _say(f"wrote {path}")


def _import(options: argparse.Namespace) -> None:
    from hercules_scale.hierarchy import Hierarchy

    _print_result(Hierarchy.from_pyhercules(options.model, options.output).uri)


def _assign(options: argparse.Namespace) -> None:
    from hercules_scale.jobs.assign import assign

    assign(
        options.run,
        {"path": options.input},
        options.output,
        redact=options.redact,
        endpoint=options.endpoint,
    )
    from hercules_scale.commands.show import describe_assignment
    from hercules_scale.hierarchy import Hierarchy

    _say(describe_assignment(Hierarchy.open(options.output), Hierarchy.open(options.run)))


def _explore(options: argparse.Namespace) -> None:
    from hercules_scale.explorer.server import serve

    serve(options.runs, options.host, options.port, options.work, options.inputs)


def _cluster_name(option: str, name: str) -> tuple[int, int]:
    level, slash, cluster_id = name.partition("/")
    if not (slash and level.isdigit() and cluster_id.isdigit()):
        raise InputError(f"{option} must be LEVEL/ID such as 2/17, got {name!r}")
    return int(level), int(cluster_id)


def _print_result(uri: str, verbose: bool = False) -> None:
    from hercules_scale.commands.show import describe_run
    from hercules_scale.hierarchy import Hierarchy

    _say(describe_run(Hierarchy.open(uri), verbose))

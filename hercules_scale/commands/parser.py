"""Arguments of the commands of ``hercules-scale``."""

from __future__ import annotations

import argparse
import functools

import hercules_scale

DEMO_OUTPUT = "runs/demo"


@functools.cache
def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; its option ``command`` is the command's name."""
    parser = argparse.ArgumentParser(
        prog="hercules-scale",
        description="Hierarchies of clusters over millions of texts, with titles and descriptions.",
    )
    parser.add_argument("--version", action="version", version=hercules_scale.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the whole job; run again, it resumes")
    _add_config_arguments(run)
    _add_verbose_argument(run)
    run.set_defaults(command="run")

    plan = commands.add_parser("plan", help="check everything and estimate tokens, time and cost")
    _add_config_arguments(plan)
    plan.add_argument(
        "--show-prompt",
        metavar="LEVEL/ID",
        help="print the prompt for one cluster of the run at output.path, finished or not",
    )
    plan.add_argument(
        "--address", metavar="URL", help="have the cluster with this Ray dashboard make the plan"
    )
    plan.set_defaults(command="plan")

    submit = commands.add_parser(
        "submit",
        help="run the job on a Ray cluster; again, it resumes",
        description="Runs CONFIG.yaml on a Ray cluster, or another command: submit assign RUN "
        "INPUT --output URI, submit evaluate RUN, submit serve CONFIG.yaml.",
    )
    _add_config_arguments(submit)
    submit.add_argument(
        "--address", required=True, metavar="URL", help="Ray's dashboard, such as http://HEAD:8265"
    )
    submit.add_argument("--no-wait", action="store_true", help="do not follow the job's log")
    submit.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="variable of this machine to send with the job besides those that go by themselves "
        "where they are set (keys, region and endpoint of S3 and Azure, OPENAI_API_KEY, "
        "OPENAI_BASE_URL, HF_TOKEN, proxies); may be repeated",
    )
    submit.add_argument(
        "--no-env", action="store_true", help="send no variables; the nodes have their own"
    )
    submit.add_argument(
        "--again", action="store_true", help="submit it again after its job succeeded"
    )
    submit.add_argument("--stop", action="store_true", help="stop the run's job instead")
    submit.set_defaults(command="submit")

    status = commands.add_parser("status", help="show the progress of a run, stage by stage")
    status.add_argument("run", metavar="RUN", help="output path of a run, finished or not")
    status.set_defaults(command="status")

    show = commands.add_parser("show", help="print the tree, or one cluster")
    show.add_argument("run", metavar="RUN", help="output of a finished run, a path or URI")
    show.add_argument("--level", type=int, help="level to begin at; 1 is the finest")
    show.add_argument("--depth", type=int, help="levels to show")
    show.add_argument("--cluster", metavar="LEVEL/ID", help="one cluster in full")
    _add_cut_arguments(show)
    show.set_defaults(command="show")

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
        help="criterion of the judge; default: the run's own, or the items' main subject",
    )
    evaluate.add_argument(
        "--max-total-tokens", type=int, metavar="N", help="stop the judge before more than these"
    )
    _add_redact_argument(evaluate)
    evaluate.set_defaults(command="evaluate")

    flags = commands.add_parser(
        "flags", help="flag outliers, ambiguous items and near-duplicates of a finished run"
    )
    flags.add_argument("run", metavar="RUN", help="output of a finished run, a path or URI")
    flags.add_argument(
        "--cosine",
        type=float,
        metavar="X",
        help="least cosine of near-duplicates, above 0 and at most 1; default: 0.95",
    )
    flags.add_argument(
        "--share",
        type=float,
        metavar="X",
        help="share of a cluster's items that are outliers, and ambiguous; default: 0.01",
    )
    flags.set_defaults(command="flags")

    align = commands.add_parser(
        "align", help="compare a finished run with an earlier one: topics kept, split, born, ..."
    )
    align.add_argument("old", metavar="OLD", help="output of the earlier run, a path or URI")
    align.add_argument("run", metavar="NEW", help="output of the run, which gets the tables")
    align.set_defaults(command="align")

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
        help="layout of json: our own, or the model that pyhercules 1.1.1 loads; default: tree",
    )
    export.add_argument("--items", action="store_true", help="json: every item's clusters too")
    _add_cut_arguments(export)
    export.add_argument(
        "--clusters", action="store_true", help="csv of a cut: a row a cluster in place of an item"
    )
    export.add_argument("--force", action="store_true", help="replace a file that is there")
    export.set_defaults(command="export")

    import_ = commands.add_parser("import", help="read a model that pyhercules saved as JSON")
    import_.add_argument("model", metavar="MODEL.json", help="path or URI of the model")
    import_.add_argument(
        "--output", required=True, metavar="URI", help="folder of the tables, a path or URI"
    )
    import_.set_defaults(command="import")

    assign = commands.add_parser("assign", help="put new items into the clusters of a run")
    assign.add_argument("run", metavar="RUN", help="output of a finished run, a path or URI")
    assign.add_argument("input", metavar="INPUT", help="new items: a file, folder or glob")
    assign.add_argument("--output", metavar="URI", required=True, help="a new folder")
    _add_redact_argument(assign)
    assign.add_argument(
        "--endpoint",
        metavar="URL",
        action="append",
        default=[],
        dest="endpoints",
        help="endpoint that embedded or described the items of the run; may be repeated",
    )
    _add_model_argument(assign)
    assign.set_defaults(command="assign")

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
        help="folder of runs that are started from the page; default: runs/explorer, with another "
        "host none",
    )
    explore.add_argument(
        "--input",
        dest="inputs",
        action="append",
        metavar="URI",
        help="allowed input of such runs besides files that are sent; may be repeated",
    )
    _add_model_argument(explore)
    explore.set_defaults(command="explore")

    serve = commands.add_parser("serve", help="serve the language model alone, until stopped")
    _add_config_arguments(serve)
    serve.add_argument("--port", type=int, default=8000, help="default: 8000")
    serve.set_defaults(command="serve")

    for command in (status, show, evaluate, flags, align, export, import_, assign, explore):
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
    demo.set_defaults(command="demo")
    return parser


def _add_verbose_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--verbose", action="store_true", help="end with tables, metrics and stages"
    )


def _add_cut_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--about",
        type=int,
        metavar="N",
        help="about N clusters of any levels that hold every item once",
    )
    command.add_argument(
        "--fine",
        action="append",
        default=[],
        metavar="NODE",
        help="cluster to divide down to the finest level, LEVEL/ID or a part of its title; may be "
        "repeated; without --about the rest is the coarsest level",
    )


def _add_redact_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--redact",
        metavar="MODULE:FUNCTION",
        help="privacy.redact of the run, where it has one, which you trust",
    )


def _add_model_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        dest="models",
        action="append",
        default=[],
        metavar="NAME",
        help="folder or hub id of a model of the run, which you trust; may be repeated",
    )


def _add_storage_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="storage",
        action="append",
        metavar="storage.key=value",
        help="access to RUN, such as storage.endpoint=http://minio:9000; may be repeated",
    )


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

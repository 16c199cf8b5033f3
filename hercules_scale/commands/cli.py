"""The command line: ``hercules-scale``.

Libraries are imported inside the commands that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from hercules_scale.commands.parser import build_parser
from hercules_scale.errors import HerculesScaleError, InputError
from hercules_scale.sanitize import for_stream, printable, printable_lines, without_secrets

if TYPE_CHECKING:
    from hercules_scale.commands.job_spec import JobSpec
    from hercules_scale.config.resources import StorageConfig
    from hercules_scale.config.run import RunConfig
    from hercules_scale.hierarchy import Hierarchy


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit code: 0 done, 1 the run failed, 2 the configuration or the input is wrong.
    """
    options = _parse(arguments)
    try:
        COMMANDS[options.command](options)
    except HerculesScaleError as error:
        # The message may quote keys, and untrusted ids and file names.
        print(f"hercules-scale: {printable(without_secrets(str(error)))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of the output, such as head, has stopped reading.
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


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options; options of a command that is submitted are in ``rest``."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    options.rest = rest
    if options.command == "submit" and options.config in SUBMITTED:
        return options
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _storage(options: argparse.Namespace) -> StorageConfig:
    from hercules_scale.config.file import storage_options

    return storage_options(options.storage or [])


def _say(text: str) -> None:
    """Print lines that may quote untrusted titles, ids and file names."""
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
    from hercules_scale.hierarchy import Hierarchy

    if config.criteria:
        from hercules_scale.jobs.criteria import run_criteria

        for _, store in run_criteria(config):
            _print_result(Hierarchy(store), options.verbose)
        return
    from hercules_scale.jobs.cluster import run

    finished = Hierarchy(run(config))
    _print_result(finished, options.verbose)


def _plan(options: argparse.Namespace) -> None:
    config = _load(options)
    if options.address is not None:
        from hercules_scale.commands.job_spec import spec_of_run
        from hercules_scale.commands.submit import submit

        if options.show_prompt is not None:
            raise InputError("--show-prompt needs no cluster; leave --address out")
        submit(spec_of_run(config, ("plan",)), options.address, _say_line, again=True)
        return
    from hercules_scale.commands.plan import make_plan
    from hercules_scale.commands.show_prompt import show_prompt

    if options.show_prompt is None:
        _say(make_plan(config))
    else:
        _say(show_prompt(config, *_cluster_name("--show-prompt", options.show_prompt)))


def _submit(options: argparse.Namespace) -> None:
    if options.env and options.no_env:
        raise InputError("--env and --no-env exclude one another; give one of them")
    from hercules_scale.commands import submit

    spec = _spec_of(options)
    if options.stop:
        submit.stop(spec, options.address, _say_line)
        return
    variables = None if options.no_env else options.env
    submit.submit(
        spec,
        options.address,
        _say_line,
        wait=not options.no_wait,
        variables=variables,
        again=options.again,
    )


def _say_line(line: str) -> None:
    print(line, flush=True)


def _spec_of(options: argparse.Namespace) -> JobSpec:
    """Return the run, or the other command, to submit."""
    from hercules_scale.commands.job_spec import spec_of_command, spec_of_run

    if options.config not in SUBMITTED:
        return spec_of_run(_load(options))
    output = [] if options.output is None else ["--output", options.output]
    sets = [part for each in options.overrides for part in ("--set", each)]
    arguments = [options.config, *options.rest, *output, *sets]
    asked = build_parser().parse_args(arguments)
    if asked.command == "serve":
        return spec_of_run(_load(asked), ("serve", "--port", str(asked.port)))
    return spec_of_command(arguments, asked.run, getattr(asked, "redact", None))


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

    # Ray gives its workers niceness 15; beside other programs the demo took twice as long.
    os.environ.setdefault("RAY_worker_niceness", "0")
    _print_result(Hierarchy(run(demo_config(options.output, options.corpus))), options.verbose)


def _status(options: argparse.Namespace) -> None:
    from hercules_scale.results.status import describe_status

    _say(describe_status(options.run, _storage(options)))


def _show(options: argparse.Namespace) -> None:
    from hercules_scale.hierarchy import Hierarchy

    cut = options.about is not None or bool(options.fine)
    if cut:
        for name in ("level", "depth", "cluster"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name} and a cut exclude one another; leave --{name} out")
    hierarchy = Hierarchy.open(options.run, _storage(options))
    if cut:
        from hercules_scale.commands.show import describe_cut

        _say(describe_cut(hierarchy, options.about, options.fine))
    elif options.cluster is None:
        hierarchy.tree(options.depth, options.level)
    else:
        from hercules_scale.commands.show import describe_cluster

        _say(describe_cluster(hierarchy, *_cluster_name("--cluster", options.cluster)))


def _evaluate(options: argparse.Namespace) -> None:
    from hercules_scale.commands.added_tables import evaluate

    _say(evaluate(options, _storage(options)))


def _flags(options: argparse.Namespace) -> None:
    from hercules_scale.commands.added_tables import flag

    _say(flag(options, _storage(options)))


def _align(options: argparse.Namespace) -> None:
    from hercules_scale.commands.added_tables import align

    _say(align(options, _storage(options)))


def _export(options: argparse.Namespace) -> None:
    from hercules_scale.hierarchy import Hierarchy

    for option in ("layout", "items"):
        if getattr(options, option) and options.format != "json":
            raise InputError(f"--{option} goes with --format json alone, got {options.format}")
    if options.items and options.layout == "pyhercules":
        raise InputError("--items: layout pyhercules holds the items already; leave it out")
    cut = options.about is not None or bool(options.fine)
    if cut and options.format != "csv":
        raise InputError(f"--about and --fine go with --format csv alone, got {options.format}")
    if options.clusters and not cut:
        raise InputError("--clusters goes with --about or --fine; add one, or leave it out")
    hierarchy = Hierarchy.open(options.run, _storage(options))
    path = options.output
    if path is None:
        suffix = ".pyhercules" if options.layout == "pyhercules" else ""
        suffix = (".cut" if options.clusters else ".items") if cut else suffix
        path = f"{hierarchy.name}{suffix}.{options.format}"
    if options.format == "json":
        layout = options.layout or "tree"
        hierarchy.to_json(path, items=options.items, layout=layout, overwrite=options.force)
    elif options.clusters:
        from hercules_scale.results.export_file import open_destination
        from hercules_scale.results.rows_csv import harmless

        clusters = harmless(hierarchy.cut(options.about, options.fine))
        with open_destination(path, options.force, _storage(options)) as stream:
            stream.write(clusters.to_csv(index=False).encode())
    elif options.format == "csv":
        hierarchy.to_csv(path, about=options.about, fine=options.fine, overwrite=options.force)
    else:
        hierarchy.to_html(path, overwrite=options.force)
    _say(f"wrote {path}")


def _import(options: argparse.Namespace) -> None:
    from hercules_scale.hierarchy import Hierarchy

    _print_result(Hierarchy.from_pyhercules(options.model, options.output, _storage(options)))


def _assign(options: argparse.Namespace) -> None:
    from hercules_scale.jobs.assign import assign

    storage = _storage(options)
    assign(
        options.run,
        {"path": options.input},
        options.output,
        redact=options.redact,
        endpoints=options.endpoints,
        models=options.models,
        storage=storage,
    )
    from hercules_scale.commands.show import describe_assignment
    from hercules_scale.hierarchy import Hierarchy

    assigned, run = (Hierarchy.open(uri, storage) for uri in (options.output, options.run))
    _say(describe_assignment(assigned, run))


def _explore(options: argparse.Namespace) -> None:
    from hercules_scale.explorer.server import serve

    serve(
        options.runs,
        options.host,
        options.port,
        options.work,
        options.inputs,
        options.models,
        _storage(options),
    )


def _cluster_name(option: str, name: str) -> tuple[int, int]:
    level, slash, cluster_id = name.partition("/")
    if not (slash and level.isdigit() and cluster_id.isdigit()):
        raise InputError(f"{option} must be LEVEL/ID such as 2/17, got {name!r}")
    return int(level), int(cluster_id)


def _print_result(hierarchy: Hierarchy, verbose: bool = False) -> None:
    from hercules_scale.commands.show import describe_run, shown_tree

    _say(f"{shown_tree(hierarchy)}\n{describe_run(hierarchy, verbose)}")


# Commands besides ``run`` that can be submitted to a cluster.
SUBMITTED = ("assign", "evaluate", "serve")
COMMANDS = {
    "run": _run,
    "plan": _plan,
    "submit": _submit,
    "status": _status,
    "show": _show,
    "evaluate": _evaluate,
    "flags": _flags,
    "align": _align,
    "export": _export,
    "import": _import,
    "assign": _assign,
    "explore": _explore,
    "serve": _serve,
    "demo": _demo,
}

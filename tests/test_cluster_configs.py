"""Every file of cluster_configs is one that its reader takes, and a misspelt key is refused.

The keys are misspelt one at a time, all of them, but for those that are names of one's own.
"""

from __future__ import annotations

import copy
import functools
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import jsonschema
import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start

from hercules_scale.commands.parser import build_parser
from hercules_scale.config.file import parse_config
from hercules_scale.runtime.prometheus import METRICS

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "cluster_configs"
KUBERNETES = "1.34"
RAYJOB_SCHEMA = os.environ.get("HERCULES_RAYJOB_SCHEMA")
LAUNCHERS = ["local.yaml", "aws.yaml", "gcp.yaml"]
RAYJOBS = ["kuberay-cpu.yaml", "kuberay-gpu.yaml"]
DOCKERFILES = ["Dockerfile", "Dockerfile.gpu"]
OTHERS = [
    "README.md",
    "kuberay-common.yaml",
    "podmonitor.yaml",
    "grafana-dashboard.json",
    "iam-policy.json",
    "slurm.sh",
]

Check = Callable[[Any], object]
Place = tuple[str | int, ...]


def load(name: str) -> Any:
    # JSON is YAML.
    (values,) = load_all(name)
    return values


def load_all(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def test_every_file_is_checked_here() -> None:
    found = {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert found == {*LAUNCHERS, *RAYJOBS, *DOCKERFILES, *OTHERS}


# A key of a map that a schema leaves free is one of these.
KNOWN: dict[str, set[str]] = {
    "requests": {"cpu", "memory", "nvidia.com/gpu"},
    "limits": {"cpu", "memory", "nvidia.com/gpu"},
    "labels": {"app.kubernetes.io/name"},
    "matchLabels": {"app.kubernetes.io/name"},
    "nodeSelector": {"karpenter.sh/capacity-type", "nvidia.com/gpu.present"},
    "annotations": {"eks.amazonaws.com/role-arn"},
    "data": {"cpu.yaml", "gpu.yaml"},
    "rayStartParams": {str(option.opts[0])[2:] for option in ray_start.params},
    "resources": {"CPU", "GPU", "requests", "limits"},
    "file_mounts": {"~/.ray/auth_token"},
}


def places(values: Any, at: Place = ()) -> Iterator[Place]:
    """Where every key of nested maps stands."""
    children = values.items() if isinstance(values, dict) else enumerate(values)
    for key, child in children:
        if isinstance(values, dict):
            yield (*at, key)
        if isinstance(child, dict | list):
            yield from places(child, (*at, key))


def misspelt(values: Any, place: Place) -> Any:
    """A copy in which one key has a letter too many."""
    changed = copy.deepcopy(values)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[f"{place[-1]}x"] = inner.pop(place[-1])
    return changed


def check_known(values: Any) -> None:
    """Keys of maps that schemas leave free."""
    for *_, parent, key in (place for place in places(values) if len(place) > 1):
        if parent in KNOWN:
            assert key in KNOWN[parent], f"{parent}: {key}"


def refuses_every_misspelt_key(values: Any, check: Check, names: set[str] | None = None) -> None:
    """The values pass a check, and with any key misspelt, but those of ``names``, they do not."""
    check(values)
    check_known(values)
    own = names or set()
    keys = [place for place in places(values) if place[-1] not in own]
    assert keys
    taken = []
    for place in keys:
        changed = misspelt(values, place)
        try:
            check(changed)
            check_known(changed)
        except Exception:
            continue
        taken.append(place)
    assert taken == []


# Of the instances of Compute Engine, what the file uses.
GCP_NODE = {
    "machineType": {},
    "disks": {
        "boot": {},
        "autoDelete": {},
        "type": {},
        "initializeParams": {"diskSizeGb": {}, "sourceImage": {}},
    },
    "guestAccelerators": {"acceleratorType": {}, "acceleratorCount": {}},
    "scheduling": {
        "provisioningModel": {},
        "instanceTerminationAction": {},
        "onHostMaintenance": {},
    },
    "serviceAccounts": {"email": {}, "scopes": {}},
}


def check_keys(values: Any, known: dict[str, Any]) -> None:
    for part in values if isinstance(values, list) else [values]:
        if isinstance(part, dict):
            assert part.keys() <= known.keys()
            for key, child in part.items():
                check_keys(child, known[key])


def check_launcher(values: dict[str, Any]) -> None:
    assert values["cluster_name"]
    provider = values["provider"]
    schema_file = Path(sys.modules["ray.autoscaler"].__file__ or "").parent / "ray-schema.json"
    known = json.loads(schema_file.read_text())["properties"]
    assert provider.keys() <= known["provider"]["properties"].keys()
    # Defaults fill in what is missing, so a part that all of ours have is looked for.
    given = {"auth", "head_start_ray_commands", "worker_start_ray_commands", "file_mounts"}
    assert given <= values.keys()
    own_key = {"ssh_private_key"} if provider["type"] == "local" else set()
    assert values["auth"].keys() == {"ssh_user", *own_key}
    assert values.keys() - {"min_workers"} <= known.keys()
    validate_config(prepare_config(copy.deepcopy(values)))
    if provider["type"] == "local":
        assert provider.keys() == {"type", "head_ip", "worker_ips"}
        return
    assert provider.keys() >= {"type", "region"}
    assert values["docker"].keys() == {"image", "container_name", "pull_before_run", "run_options"}
    for node in values["available_node_types"].values():
        if provider["type"] == "aws":
            check_instances(node["node_config"])
        else:
            check_keys(node["node_config"], GCP_NODE)
            assert node["node_config"].keys() >= {"machineType", "disks"}


@functools.cache
def run_instances() -> Any:
    """What EC2's own model says of its arguments."""
    model = botocore.session.get_session().get_service_model("ec2")
    return model.operation_model("RunInstances").input_shape


def check_instances(node: dict[str, Any]) -> None:
    asked = {**node, "MinCount": 1, "MaxCount": 1}
    report = botocore.validate.ParamValidator().validate(asked, run_instances())
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_file_is_one_that_ray_takes(name: str) -> None:
    values = load(name)
    # Names of node types; the head's must be the one that head_node_type has.
    refuses_every_misspelt_key(values, check_launcher, {"worker", "gpu"})
    for command in ("head_start_ray_commands", "worker_start_ray_commands"):
        started = [line for line in values[command] if "ray start" in line]
        assert started
        assert all(line.startswith("RAY_AUTH_MODE=token ") for line in started)
        options = {option for line in started for option in re.findall(r"--([\w-]+)", line)}
        assert options <= KNOWN["rayStartParams"]


def closed(schema: Any) -> Any:
    """A schema in which no object takes keys that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: closed(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    if (
        isinstance(schema.get("properties"), dict)
        and schema.get("type") == "object"
        and not is_open
    ):
        changed.setdefault("additionalProperties", False)
    return changed


@pytest.mark.skipif(RAYJOB_SCHEMA is None, reason="HERCULES_RAYJOB_SCHEMA names no file")
@pytest.mark.parametrize("name", RAYJOBS)
def test_a_rayjob_is_one_that_kuberay_takes(name: str) -> None:
    schema = closed(json.loads(Path(str(RAYJOB_SCHEMA)).read_text())["v1"])
    validator = jsonschema.Draft7Validator(schema)
    metadata = {"name", "namespace"}

    def check(values: Any) -> None:
        validator.validate(values)
        assert values.keys() == {"apiVersion", "kind", "metadata", "spec"}
        assert (values["apiVersion"], values["kind"]) == ("ray.io/v1", "RayJob")
        assert values["metadata"].keys() == metadata
        for template in templates(values):
            assert template["metadata"].keys() == {"labels"}

    refuses_every_misspelt_key(load(name), check)


def templates(job: Any) -> list[Any]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]]


@pytest.mark.parametrize("name", RAYJOBS)
def test_pods_of_a_rayjob_are_ones_that_kubernetes_takes(name: str) -> None:
    for template in templates(load(name)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}

        def check(values: Any) -> None:
            validate_kubernetes(values)
            assert values["metadata"].keys() <= {"name", "labels"}

        refuses_every_misspelt_key(pod, check)
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        (container,) = spec["containers"]
        assert {volume["mountPath"] for volume in container["volumeMounts"]} >= {"/dev/shm", "/tmp"}
        assert container["resources"]["limits"] == container["resources"]["requests"]


@pytest.mark.parametrize("name", RAYJOBS)
def test_a_rayjob_resumes_asks_for_the_token_and_leaves_the_head_without_work(name: str) -> None:
    spec = load(name)["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "hercules-token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    command, verb, path = spec["entrypoint"].split()
    assert (command, verb) == ("hercules-scale", "run")
    folder, _, config = path.rpartition("/")
    (head, *_) = templates(load(name))
    (mount,) = [m for m in head["spec"]["containers"][0]["volumeMounts"] if m["name"] == "run"]
    assert mount["mountPath"] == folder
    (configs,) = [each for each in load_all("kuberay-common.yaml") if each["kind"] == "ConfigMap"]
    parse_config(yaml.safe_load(configs["data"][config]))


def validate_kubernetes(values: Any) -> None:
    kubernetes_validate.validate(values, KUBERNETES, strict=True)


def test_the_other_objects_are_ones_that_kubernetes_takes() -> None:
    def check(values: Any) -> None:
        validate_kubernetes(values)
        # The schemas ask for neither.
        assert values["metadata"]["name"]
        assert values.keys() - {"metadata"}
        if values["kind"] in ("Role", "ConfigMap"):
            assert {"rules", "data"} & values.keys()

    for values in load_all("kuberay-common.yaml"):
        refuses_every_misspelt_key(values, check)


def shape(**keys: Any) -> dict[str, Any]:
    """Schema of a map of just these keys, each an example of its kind or a schema."""
    kinds = {str: "string", int: "integer", bool: "boolean"}
    properties = {
        name: kind if isinstance(kind, dict) else {"type": kinds[kind]}
        for name, kind in keys.items()
    }
    required = list(properties)
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def array(of: Any) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": of if isinstance(of, dict) else {"type": of}}


LABELS = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}}
RELABELLING = shape(action=str, sourceLabels=array("string"), targetLabel=str)
ENDPOINT = shape(port=str, path=str, interval=str, relabelings=array(RELABELLING))
POD_MONITOR = shape(
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PodMonitor"},
    metadata=shape(name=str, namespace=str),
    spec=shape(
        namespaceSelector=shape(matchNames=array("string")),
        selector=shape(matchLabels=LABELS),
        podMetricsEndpoints=array(ENDPOINT),
    ),
)


def test_the_pod_monitor_finds_the_pods_and_their_port() -> None:
    monitor = load("podmonitor.yaml")
    refuses_every_misspelt_key(monitor, jsonschema.Draft7Validator(POD_MONITOR).validate)
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for template in [each for name in RAYJOBS for each in templates(load(name))]:
        assert template["metadata"]["labels"] == monitor["spec"]["selector"]["matchLabels"]
        (container,) = template["spec"]["containers"]
        assert endpoint["port"] in [port["name"] for port in container["ports"]]


SOURCE = shape(type=str, uid=str)
PANEL = shape(
    id=int,
    title=str,
    type={"enum": ["timeseries", "stat"]},
    datasource=SOURCE,
    gridPos=shape(h=int, w=int, x=int, y=int),
    fieldConfig=shape(defaults=shape(unit=str), overrides={"type": "array"}),
    targets=array(shape(refId=str, expr=str, legendFormat=str)),
)
VARIABLES = {
    "oneOf": [
        shape(name=str, type={"const": "datasource"}, query=str, label=str),
        shape(
            name=str,
            type={"const": "query"},
            label=str,
            datasource=SOURCE,
            query=str,
            includeAll=bool,
            multi=bool,
            allValue=str,
            refresh=int,
        ),
    ]
}
DASHBOARD = shape(
    title=str,
    uid=str,
    schemaVersion=int,
    editable=bool,
    refresh=str,
    time=shape(**{"from": str, "to": str}),
    tags=array("string"),
    templating=shape(list=array(VARIABLES)),
    panels=array(PANEL),
)


def exported_metrics() -> set[str]:
    """Ours as Prometheus has them, and those that Ray's own dashboards show."""
    suffix = {"counter": "_total", "gauge": ""}
    own = {f"ray_{name}{suffix[metric.kind]}" for name, metric in METRICS.items()}
    folder = Path(sys.modules["ray"].__file__ or "").parent / "dashboard/modules/metrics/dashboards"
    panels = "".join(path.read_text() for path in folder.glob("*_panels.py"))
    return own | set(re.findall(r"\bray_\w+(?=\{)", panels))


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    dashboard = load("grafana-dashboard.json")
    refuses_every_misspelt_key(dashboard, jsonschema.Draft7Validator(DASHBOARD).validate)
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [each["query"] for each in dashboard["templating"]["list"]]
    asked = {name for query in queries for name in re.findall(r"\bray_\w+", query)}
    assert asked <= exported_metrics()
    assert {name for name in exported_metrics() if "hercules" in name} <= asked
    grouped = {tag for query in queries for tag in re.findall(r"by \(([^)]*)\) \(ray_herc", query)}
    tags = {tag for metric in METRICS.values() for tag in metric.all_tags}
    assert {tag for group in grouped for tag in group.split(", ")} <= tags


STATEMENT = shape(
    Sid=str,
    Effect={"enum": ["Allow", "Deny"]},
    Action={},
    Resource={},
    Condition={"type": "object"},
)
POLICY = shape(Version={"const": "2012-10-17"}, Statement=array(STATEMENT))
CONDITIONS = {"StringLike": {"s3:prefix"}, "Bool": {"aws:SecureTransport"}}


def test_the_policy_lets_a_run_read_its_input_and_write_its_output_alone() -> None:
    def check(values: Any) -> None:
        policy = copy.deepcopy(values)
        for statement in policy["Statement"]:
            for operator, condition in statement.get("Condition", {}).items():
                assert condition.keys() == CONDITIONS[operator]
            # Objects need none: their paths are in the resource.
            if statement["Sid"] in ("ReadInput", "WriteOutput"):
                statement.setdefault("Condition", {})
        jsonschema.validate(policy, POLICY)

    policy = load("iam-policy.json")
    refuses_every_misspelt_key(policy, check)
    allowed: dict[str, set[str]] = {}
    for statement in (each for each in policy["Statement"] if each["Effect"] == "Allow"):
        actions, resources = (
            [value] if isinstance(value, str) else value
            for value in (statement["Action"], statement["Resource"])
        )
        for resource in resources:
            allowed.setdefault(resource.removeprefix("arn:aws:s3:::"), set()).update(actions)
    assert allowed == {
        "INPUT_BUCKET": {"s3:ListBucket"},
        "OUTPUT_BUCKET": {"s3:ListBucket"},
        "INPUT_BUCKET/INPUT_PREFIX/*": {"s3:GetObject"},
        "OUTPUT_BUCKET/OUTPUT_PREFIX/*": {
            "s3:GetObject",
            "s3:PutObject",
            "s3:DeleteObject",
            "s3:AbortMultipartUpload",
        },
    }


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_has_the_locked_environment_and_is_not_run_as_root(name: str) -> None:
    parsed = DockerfileParser(fileobj=BytesIO((FOLDER / name).read_bytes()))
    steps = [step for step in parsed.structure if step["instruction"] != "COMMENT"]
    known = {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "ENTRYPOINT", "CMD"}
    assert {step["instruction"] for step in steps} <= known
    users = [step["value"] for step in steps if step["instruction"] == "USER"]
    assert users == ["1000"]
    bases = [step["value"].split()[0] for step in steps if step["instruction"] == "FROM"]
    assert all(re.fullmatch(r"python:3\.11-slim", base) for base in bases)
    for step in steps:
        *sources, _ = step["value"].split()
        if step["instruction"] == "COPY" and not step["value"].startswith("--from"):
            assert all((REPOSITORY / source).exists() for source in sources), step["value"]
    installed = [each["value"] for each in steps if "pip install" in each["value"]]
    assert re.search(r"-r requirements-(cpu|gpu)\.txt$", installed[0])
    assert installed[1].endswith("--no-deps -r requirements-clouds.txt")
    assert installed[2].endswith("--no-deps -r requirements-launchers.txt")
    assert installed[3].endswith("--no-deps --no-build-isolation .")
    for step in installed[:3]:
        for line in (REPOSITORY / step.split()[-1]).read_text().splitlines():
            assert line.startswith("#") or re.fullmatch(r"[\w.\[\]-]+==[\w.!+-]+", line)


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_head_can_import_what_starts_machines(cloud: str) -> None:
    importlib.import_module(f"ray.autoscaler._private.{cloud}.node_provider")


def shellcheck(text: str) -> str:
    program = str(Path(sys.executable).with_name("shellcheck"))
    done = subprocess.run([program, "-"], input=text, capture_output=True, text=True, check=False)
    return done.stdout


SBATCH = {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "time", "requeue"}
SRUN = {"nodes", "ntasks", "nodelist", "exclude", "overlap"}
OF_HOSTNAME = {"ip-address", "all-ip-addresses"}
SLURM_VARIABLES = {"SLURM_JOB_NODELIST", "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_TMPDIR"}


def test_the_slurm_script_is_sound() -> None:
    text = (FOLDER / "slurm.sh").read_text()
    assert shellcheck(text) == ""
    assert "SC2034" in shellcheck(text.replace("address=$(", "adress=$("))
    assert set(re.findall(r"^#SBATCH --([\w-]+)", text, re.MULTILINE)) == SBATCH
    assert set(re.findall(r"\bSLURM_\w+", text)) == SLURM_VARIABLES
    joined = re.sub(r"\\\n\s*", "", text)
    for line in joined.splitlines():
        if "srun " not in line or line.startswith("#"):
            continue
        before, _, started = line.partition("ray start")
        assert set(re.findall(r"--([\w-]+)", before.partition("srun ")[2])) <= SRUN | OF_HOSTNAME
        assert set(re.findall(r"--([\w-]+)", started)) <= KNOWN["rayStartParams"]
    assert re.search(r"^export RAY_AUTH_TOKEN RAY_AUTH_MODE=token", text, re.MULTILINE)


def test_the_page_on_clusters_names_what_there_is() -> None:
    text = (REPOSITORY / "docs" / "clusters.md").read_text()
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert shellcheck(f"#!/bin/bash\nKEY=key\n{blocks}") == ""
    named = set(re.findall(r"cluster_configs/([\w.-]+)", blocks))
    assert named >= {"aws.yaml", "local.yaml", "kuberay-common.yaml", "slurm.sh", "Dockerfile"}
    assert all((FOLDER / name).exists() for name in named)
    more = text + (REPOSITORY / "docs" / "resources.md").read_text()
    listed = {path.name for path in FOLDER.iterdir()} - {"README.md"}
    assert all(f"`{name}`" in more or name in named for name in listed)
    for line in filter(None, blocks.splitlines()):
        program, *arguments = shlex.split(line)
        if program == "hercules-scale":
            build_parser().parse_args(arguments)


def test_kubectl_is_called_with_names_that_the_files_have() -> None:
    text = (REPOSITORY / "docs" / "clusters.md").read_text()
    called = re.findall(r"^kubectl (?!apply)(.*)$", text, re.MULTILINE)
    common, job = load_all("kuberay-common.yaml"), load("kuberay-gpu.yaml")
    (namespace,) = [each["metadata"]["name"] for each in common if each["kind"] == "Namespace"]
    assert all(each.startswith(f"-n {namespace} ") for each in called)
    secrets = dict(re.findall(r"secret generic (\S+) --from-literal=(\w+)=", "\n".join(called)))
    token = job["spec"]["rayClusterSpec"]["authOptions"]["secretName"]
    keys = {
        source["secretRef"]["name"]
        for template in templates(job)
        for source in template["spec"]["containers"][0]["envFrom"]
    }
    assert secrets.keys() == {token, *keys}
    # KubeRay reads the token by this name.
    assert secrets[token] == "auth_token"
    # A RayJob's Kubernetes job has its name.
    name = job["metadata"]["name"]
    assert f"-n {namespace} get rayjob {name}" in called
    assert any(each.endswith(f"--selector=job-name={name}") for each in called)
    maps = [each["metadata"]["name"] for each in common if each["kind"] == "ConfigMap"]
    assert all(f"ConfigMap `{each}`" in text for each in maps)


def test_the_page_on_resources_has_keys_that_there_are() -> None:
    text = (REPOSITORY / "docs" / "resources.md").read_text()
    (resources,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    values = {"input": {"path": "a"}, "output": {"path": "b"}, **yaml.safe_load(resources)}
    parse_config(values)

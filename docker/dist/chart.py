#!/usr/bin/env python3
"""Lints the Helm chart, renders it, holds it to the kustomization (by default both make the same), and all of it to the schemas of Kubernetes.

Needs kubectl, and by `pip install helm-python-sdk pyyaml kubernetes-validate cloudcoil.models.prometheus_operator` Helm itself as a
library, and the schemas: of Kubernetes, and of Prometheus' operator.
"""
import contextlib
import copy
import io
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor
from helm_python.chart import Chart, lint

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "docker/helm"
# The oldest that the chart is for, and the newest whose schemas are there.
VERSIONS = ["1.27", kubernetes_validate.latest_version()]
# What others than Kubernetes bring, as the models made of their schemas read it.
FOREIGN = {"ServiceMonitor": ServiceMonitor}


def documents(text):
    return [one for one in yaml.safe_load_all(text) if one]


def rendered(**values):
    with Chart.load(CHART) as chart:
        made = chart.render(values=values, name="pgoutbox")
    texts = made if isinstance(made, list) else list(made.items())
    found = []
    for one in texts:
        name, text = (one["name"], one["data"]) if isinstance(one, dict) else one
        if name.endswith(".yaml"):
            found += documents(text)
    return found


def keyed(all_of_them):
    """By kind and name, without what only one of the two can have."""
    out = {}
    for one in copy.deepcopy(all_of_them):
        meta = one["metadata"]
        # The hash of the content, by which kustomize replaces pods; the chart has an annotation.
        name = "pgoutbox" if one["kind"] == "ConfigMap" else meta["name"]
        meta["name"] = name
        meta.pop("annotations", None)
        meta["labels"] = {key: value for key, value in meta.get("labels", {}).items() if not key.endswith("part-of")}
        spec = one.get("spec", {})
        template = spec.get("template", {})
        template.get("metadata", {}).pop("annotations", None)
        template.get("metadata", {}).get("labels", {}).pop("app.kubernetes.io/part-of", None)
        for container in template.get("spec", {}).get("containers", []):
            container.pop("imagePullPolicy", None)
        for volume in template.get("spec", {}).get("volumes", []):
            if "configMap" in volume:
                volume["configMap"]["name"] = "pgoutbox"
        out[one["kind"], name] = one
    return out


def same(what, theirs, ours):
    if theirs == ours:
        return True
    print(f"{what} differs:\n--- kustomize\n{yaml.dump(theirs)}--- helm\n{yaml.dump(ours)}", file=sys.stderr)
    return False


def valid(what, all_of_them):
    """As Kubernetes' own schemas have it, and those of others; and no key that they do not know."""
    is_good = True
    for one in all_of_them:
        if one["kind"] in FOREIGN:
            is_good &= read(what, one)
        for version in VERSIONS if one["kind"] not in FOREIGN else []:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as wrong:
                print(f"{what}, {one['kind']}, Kubernetes {version}: {getattr(wrong, 'message', wrong)}", file=sys.stderr)
                is_good = False
    return is_good


def read(what, one):
    """What its model reads, and writes again: a key that it does not know is lost on the way."""
    try:
        known = FOREIGN[one["kind"]].model_validate(one).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValueError as wrong:
        print(f"{what}, {one['kind']}: {wrong}", file=sys.stderr)
        return False
    return same(f"{what}, {one['kind']}, as its schema knows it,", known, one)


def main():
    is_good = True
    report = lint(str(CHART))
    messages = report.get("messages", []) if isinstance(report, dict) else report
    for message in messages:
        # An icon is for a catalogue.
        if "icon is recommended" not in str(message):
            print(f"lint: {message}", file=sys.stderr)
            is_good = False
    kustomized = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "docker/kubernetes")], check=True, capture_output=True, text=True
    ).stdout
    theirs, ours = keyed(documents(kustomized)), keyed(rendered())
    is_good &= valid("kustomize", documents(kustomized)) & valid("helm", rendered())
    is_good &= same("what there is", sorted(theirs), sorted(ours))
    for key in sorted(theirs.keys() & ours.keys()):
        is_good &= same(" ".join(key), theirs[key], ours[key])
    job = documents((ROOT / "docker/kubernetes/init-job.yaml").read_text())
    with_job = keyed(rendered(init={"enabled": True}))
    is_good &= valid("the init job", job)
    is_good &= same("the init job", keyed(job)["Job", "pgoutbox-init"], with_job.get(("Job", "pgoutbox-init")))

    shards = rendered(relays=[{"name": "a", "slot": "slot_a"}, {"name": "b", "existingSecret": "other"}])
    names = sorted(one["metadata"]["name"] for one in shards if one["kind"] == "Deployment")
    is_good &= same("the shards", ["pgoutbox-a", "pgoutbox-b"], names)
    for one in shards:
        selector = one.get("spec", {}).get("selector", {})
        if one["kind"] == "Deployment":
            labels = one["spec"]["template"]["metadata"]["labels"]
            is_good &= same("a shard's selector", {**labels, **selector["matchLabels"]}, labels)
    shards = [{"name": "a", "slot": "slot_a", "config": "[[tables]]\nname = \"a\"\n", "ownerSecret": "of-a"}, {"name": "b", "publication": "of_b"}]
    made = rendered(relays=shards, init={"enabled": True})
    is_good &= valid("shards", made)
    for name, env, owner in [
        ("a", {"PGOUTBOX_POSTGRES__SLOT": "slot_a"}, "of-a"),
        ("b", {"PGOUTBOX_POSTGRES__PUBLICATION": "of_b"}, "pgoutbox-owner"),
    ]:
        [job] = [one for one in made if one["kind"] == "Job" and one["metadata"]["name"] == f"pgoutbox-{name}-init"]
        pod = job["spec"]["template"]["spec"]
        has = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
        is_good &= same("what the job of a shard is told", {**has, **env}, has)
        volumes = {one["name"]: one for one in pod["volumes"]}
        is_good &= same("the owner of a shard", owner, volumes["secrets"]["secret"]["secretName"])
        settings = volumes["config"]["configMap"]["name"]
        [settings] = [one for one in made if one["kind"] == "ConfigMap" and one["metadata"]["name"] == settings]
        [of_relay] = [one for one in made if one["kind"] == "ConfigMap" and one["metadata"]["name"] == f"pgoutbox-{name}"]
        is_good &= same("the settings of a shard", of_relay["data"], settings["data"])
    made = rendered(shards=3, init={"enabled": True})
    spread = [one["spec"] for one in made if one["kind"] in ("Deployment", "Job")]
    is_good &= same("the pods of three shards", [4], [one["replicas"] for one in spread if "replicas" in one])
    for one in spread:
        has = {it["name"]: it["value"] for it in one["template"]["spec"]["containers"][0]["env"]}
        is_good &= same("what a pod of three shards is told", "3", has.get("PGOUTBOX_POSTGRES__SHARDS"))
    for wrong in [{"replicas": -1}, {"shards": 0}, {"typo": 1}, {"relays": [{"name": "A_"}]}]:
        try:
            rendered(**wrong)
        except Exception:  # whatever the library calls it
            continue
        print(f"{wrong} is taken", file=sys.stderr)
        is_good = False
    monitor = documents((ROOT / "docker/kubernetes/servicemonitor.yaml").read_text())
    monitored = [one for one in rendered(serviceMonitor={"enabled": True}) if one["kind"] == "ServiceMonitor"]
    is_good &= valid("the monitor", monitor) & valid("helm", monitored)
    is_good &= same("the monitor", keyed(monitor), keyed(monitored))
    for wrong in [{"selectors": {}}, {"endpoints": [{"port": 8976}]}, {"endpoints": [{"interval": "soon"}]}]:
        [one] = copy.deepcopy(monitor)
        one["spec"].update(wrong)
        with contextlib.redirect_stderr(io.StringIO()):
            is_taken = valid("a monitor", [one])
        if is_taken:
            print(f"a monitor with {wrong} is taken", file=sys.stderr)
            is_good = False
    print("dist: the chart renders, by default makes what the kustomization makes, and the schemas of Kubernetes and of Prometheus' operator have it all" if is_good else "dist: the chart is wrong")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())

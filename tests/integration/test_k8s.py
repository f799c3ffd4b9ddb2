# SPDX-License-Identifier: Apache-2.0
"""The manifests under k8s/ without a cluster: they parse, fit together, keep the restricted pod rules, and their configuration is one that the
program accepts."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from stack import BUILD, ROOT

K8S = ROOT / "k8s"
ROLES = ["ingest", "settle", "router", "gateway", "sweep"]


def manifests():
    listed = yaml.safe_load((K8S / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(p.name for p in K8S.glob("*.yaml") if p.name != "kustomization.yaml")
    return [part for name in listed for part in yaml.safe_load_all((K8S / name).read_text())]


def of_kind(kind, name):
    found = [m for m in manifests() if m["kind"] == kind and m["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


@pytest.mark.parametrize("role", ROLES)
def test_each_role_has_a_deployment_that_its_disruption_budget_and_service_select(role):
    deployment = of_kind("Deployment", f"giftflow-{role}")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == [role, "--config", "/etc/giftflow/giftflow.conf"]
    selectors = [deployment["spec"]["selector"]["matchLabels"], of_kind("PodDisruptionBudget", f"giftflow-{role}")["spec"]["selector"]["matchLabels"]]
    selectors += [m["spec"]["selector"] for m in manifests() if m["kind"] == "Service" and m["metadata"]["name"] == f"giftflow-{role}"]
    assert len(selectors) == (3 if role in ("ingest", "gateway") else 2)
    for selector in selectors:
        assert selector["app.kubernetes.io/component"] == role
        assert selector.items() <= labels.items()
    assert of_kind("PodDisruptionBudget", f"giftflow-{role}")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("role", ROLES + ["init"])
def test_each_pod_keeps_the_restricted_rules(role):
    kind = "Job" if role == "init" else "Deployment"
    pod = of_kind(kind, f"giftflow-{role}")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


@pytest.mark.parametrize("role", ROLES)
def test_liveness_asks_for_the_loop_only_and_the_grace_period_outlasts_the_drain(role):
    pod = of_kind("Deployment", f"giftflow-{role}")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    header = (ROOT / "include" / "gf" / "config.h").read_text()
    drain = int(re.search(r'X\(ops, drain_timeout, MS, "(\d+)s"', header).group(1))
    assert pod["terminationGracePeriodSeconds"] >= before + drain + 10


def test_the_ports_of_the_manifests_are_those_of_the_configuration():
    header = (ROOT / "include" / "gf" / "config.h").read_text()
    default = {f"{s}.{k}": int(v) for s, k, v in re.findall(r'X\((\w+), (\w*port), INT, "(\d+)"', header)}
    for role, wanted in {"ingest": {default["ingest.port"]}, "gateway": {default["gateway.port"], default["gateway.link_port"]}}.items():
        container = of_kind("Deployment", f"giftflow-{role}")["spec"]["template"]["spec"]["containers"][0]
        assert {p["containerPort"] for p in container["ports"]} == wanted | {9100}
    assert "port = 9100" in of_kind("ConfigMap", "giftflow")["data"]["giftflow.conf"]


def test_network_policies_are_of_our_pods_only():
    """One that selects by a component's name alone closes the pods of every other program in the namespace that has such a component."""
    selectors = [m["spec"]["podSelector"] for m in manifests() if m["kind"] == "NetworkPolicy"]
    selectors += [peer["podSelector"] for m in manifests() if m["kind"] == "NetworkPolicy"
                  for rule in m["spec"].get("ingress", []) for peer in rule["from"] if "podSelector" in peer]
    assert len(selectors) == 5
    for selector in selectors:
        assert selector["matchLabels"]["app.kubernetes.io/name"] == "giftflow", selector


def test_the_program_accepts_the_configuration(tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("jwt.key", "admin.key", "mysql.password"):
        (secrets / name).write_text("0123456789abcdef" * 2)
    text = of_kind("ConfigMap", "giftflow")["data"]["giftflow.conf"].replace("/etc/giftflow-secrets", str(secrets))
    conf = Path(tmp_path / "giftflow.conf")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GIFTFLOW_")}
    program = str(ROOT / "build" / BUILD / "giftflow")
    for wrong in ("", "\nnot_a_key = 1\n"):
        conf.write_text(text + wrong)
        done = subprocess.run([program, "config", "check", "--config", str(conf)], capture_output=True, text=True, env=environ, timeout=60)
        assert (done.returncode == 0) == (wrong == ""), done.stdout + done.stderr

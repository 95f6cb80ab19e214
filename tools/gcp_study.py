"""python -m tools.gcp_study: what covariance pooling changes in training, on one data set, with a report page."""

from __future__ import annotations

from tools.cli import run_tool
from tools.study_config import GcpStudy

INTRODUCTION = (
    "One network, trained with average pooling (GAP) and with covariance pooling (GCP: Newton-Schulz root of the "
    "covariance), everything else alike, as in the study of Wang et al. (CVPR 2020).",
    "A difference between two trainings of one seed may be chance: look at the spread over seeds before believing it.",
)


def study(config: GcpStudy) -> dict:
    """Make the whole study and write its report; returns what `metrics.json` holds."""
    import platform
    import time
    from dataclasses import asdict

    import torch

    from backbones import UserError
    from classify.probing import read_lines
    from classify.study_schedules import StudySchedule
    from episodes.run import RunFolder, write_text
    from tools import session, study_parts, study_report
    from tools.study_page import write_study_page
    from tools.study_training import check_jobs, family_of, make_jobs, run_jobs, trained_weights

    started = time.perf_counter()
    session.check(config)
    study_parts.check_robust(config.robust)
    jobs = make_jobs(config)
    check_jobs(jobs, config.parts)
    fabric = session.open_fabric(config.machine, config.seed)
    if fabric.world_size > 1:
        raise UserError("tools.gcp_study works in one process: train with tools.classify on several, or --devices 1")
    run = RunFolder(config.run, asdict(config), config.resume, config.overwrite)
    metrics = run_jobs(jobs, print)
    tested_jobs = {job.network: job for job in reversed(jobs) if job.schedule == config.schedules.names[0]}
    tested_jobs = {name: tested_jobs[name] for name in ("GAP", "GCP")}
    found: dict = {"accuracy": study_parts.accuracies(metrics)}
    found["parameters"] = {name: metrics[job]["parameters"] for name, job in tested_jobs.items()}
    sections = []
    if "landscape" in config.parts:
        probes = {name: read_lines(job.landscapes) for name, job in tested_jobs.items()}
        section, found["landscape"] = study_report.landscape_section(probes, run.path)
        sections.append(section)
    if "schedules" in config.parts:
        optim = {job.schedule: job.config.optim for job in jobs}
        rates = {}
        for name, one in optim.items():
            curve = StudySchedule(family_of(config), name, config.schedules.stretch, one.lr)
            rates[name] = [curve.rate(epoch) for epoch in range(one.epochs)]
        found["lost"] = study_parts.gaps(found["accuracy"])
        sections.append(
            study_report.schedule_section(rates, found["accuracy"], found["lost"], found["parameters"], run.path)
        )
    if {"robustness", "curvature"} & set(config.parts):
        weights, groups = trained_weights(jobs, config.schedules.names[0])
        tested = study_parts.Tested(
            weights, config.data.val, config.data, config.robust, config.seed, fabric, print, groups
        )  # fmt: skip
    if "robustness" in config.parts:
        found["robustness"] = study_parts.robustness(tested, run.path)
        sections.append(study_report.robust_section(found["robustness"], run.path))
    if "curvature" in config.parts:
        found["curvature"] = study_parts.measure_curvature(tested)
        sections.append(study_report.curvature_section(found["curvature"], run.path))
    found["seconds"] = round(time.perf_counter() - started, 1)
    run.write_metrics(found)
    facts = {
        "trained on": config.data.train,
        "tested on": config.data.val,
        "network": f"{config.network.backbone}, {config.network.reduction} channels, "
        f"{config.network.iterations} Newton-Schulz steps",
        "parameters": ", ".join(f"{name} {count:,}" for name, count in found["parameters"].items()),
        "seeds": ", ".join(map(str, config.schedules.seeds)),
        "device": torch.cuda.get_device_name() if fabric.device.type == "cuda" else "CPU",
        "wall time": f"{found['seconds']:.0f} s" + (" since it was resumed" if config.resume else ""),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "transfer to detection": "comes with the detection tools",
    }
    title = "Covariance pooling in training"
    write_study_page(run.path / "index.html", title, INTRODUCTION, sections, facts)
    write_text(run.path / "report.md", "\n\n".join([f"# {title}", *(section.to_markdown() for section in sections)]))
    print(f"{found['seconds']:.0f} s in all; open {run.path / 'index.html'}")
    return found


if __name__ == "__main__":
    run_tool(GcpStudy, "gcp_study", study)

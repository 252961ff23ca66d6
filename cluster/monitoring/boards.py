"""The boards: few panels, each of which somebody would act on.

python -m cluster.monitoring.boards        writes them as JSON, for Grafana to import
"""

from __future__ import annotations

from pathlib import Path

from cluster.monitoring.grafana import Board, Panel

FOLDER = Path(__file__).resolve().parent / "dashboards"
_RUN = '{run=~"$run"}'
_SWEEP = '{sweep=~"$sweep"}'

TRAINING = Board(
    name="training",
    title="Wave Wizard: training",
    variables={"run": "ray_ww_train_step"},
    panels=[
        Panel(
            title="Done",
            about="Of all steps of a run. Early stopping and time limits may end it before.",
            unit="percentunit",
            most=1,
            queries={"{{run}}": f"max by (run) (ray_ww_train_step{_RUN} / ray_ww_train_last_step{_RUN})"},
        ),
        Panel(
            title="Sound trained on per second",
            about="By all workers, validations included. A fall: a busy neighbour, a lost worker, or data too slow.",
            unit="suffix: s/s",
            queries={
                "{{run}}": f"sum by (run) (rate(ray_ww_train_audio_seconds_total{_RUN}[$__rate_interval]))"
            },
        ),
        Panel(
            title="Waits for data",
            about="The part of the time. Above 20 %: give mixing more CPUs (fewer for workers, or another node).",
            unit="percentunit",
            most=1,
            limit=0.2,
            queries={
                "{{run}}": f"sum by (run) (rate(ray_ww_train_data_wait_seconds_total{_RUN}[$__rate_interval]))"
            },
        ),
        Panel(
            title="Loss",
            about="Of single steps, so it jumps. One that is not finite ends the run.",
            unit="short",
            queries={"{{run}}": f"max by (run) (ray_ww_train_loss{_RUN})"},
        ),
        Panel(
            title="Norm of the gradients",
            about="Before they are clipped. Rising without end: lower optimizer.learning_rate, or clip.",
            unit="short",
            is_logarithmic=True,
            queries={"{{run}}": f"max by (run) (ray_ww_train_gradient_norm{_RUN})"},
        ),
        Panel(
            title="SI-SDR of validations",
            about="Mean over the stored mixtures. If it no longer rises, the run may end.",
            unit="dB",
            queries={
                "{{run}}": 'max by (run) (ray_ww_train_validation_score{run=~"$run", measure="si_sdr_db"})'
            },
        ),
        Panel(
            title="PESQ of validations",
            about="Mean over the mixtures that it is measured on.",
            unit="short",
            queries={"{{run}}": 'max by (run) (ray_ww_train_validation_score{run=~"$run", measure="pesq"})'},
        ),
        Panel(
            title="GPUs at work",
            about="Low while training waits for data: mix faster. Low otherwise: a larger batch.",
            unit="percent",
            most=100,
            needs_gpu=True,
            queries={
                "{{instance}} GPU {{GpuIndex}}": "max by (instance, GpuIndex) (ray_node_gpus_utilization)"
            },
        ),
        Panel(
            title="Memory of GPUs",
            about="Above 95 % the next longer batch may not fit: lower training.batch_size, or accumulate.",
            unit="percentunit",
            most=1,
            limit=0.95,
            needs_gpu=True,
            queries={
                "{{instance}} GPU {{GpuIndex}}": "max by (instance, GpuIndex) "
                "(ray_node_gram_used / (ray_node_gram_used + ray_node_gram_available))"
            },
        ),
    ],
)

SERVING = Board(
    name="serving",
    title="Wave Wizard: serving",
    panels=[
        Panel(
            title="Live calls",
            about="Of all replicas.",
            unit="short",
            queries={"calls": "sum(ray_ww_live_calls)"},
        ),
        Panel(
            title="Room for live calls that is taken",
            about="Of the fullest replica. At 1 callers are told busy: more replicas, or more CPUs for each.",
            unit="percentunit",
            limit=0.9,
            queries={"fullest": "max(ray_ww_live_load_ratio)"},
        ),
        Panel(
            title="Time that sound takes in live calls",
            about="From when sound is given to the model to its result, without the latency. Above 100 ms it is heard.",
            unit="s",
            limit=0.1,
            queries={
                "p50": "histogram_quantile(0.5, sum by (le) "
                "(rate(ray_ww_live_processing_seconds_bucket[$__rate_interval])))",
                "p99": "histogram_quantile(0.99, sum by (le) "
                "(rate(ray_ww_live_processing_seconds_bucket[$__rate_interval])))",
            },
        ),
        Panel(
            title="Real-time factor",
            about="Seconds of computing per second of sound: a live call's share of the steps, and files, decoding "
            "included. At 1 it no longer keeps up.",
            unit="short",
            limit=1,
            queries={
                "live": "sum(rate(ray_ww_live_compute_seconds_total[$__rate_interval])) "
                "/ sum(rate(ray_ww_live_audio_seconds_total[$__rate_interval]))",
                "files, p95": "histogram_quantile(0.95, sum by (le) "
                "(rate(ray_ww_file_real_time_factor_bucket[$__rate_interval])))",
            },
        ),
        Panel(
            title="Overruns",
            about="How often a call's sound began to wait for more than 250 ms. Any at all: something takes the CPU.",
            unit="suffix: /min",
            queries={"overruns": "60 * sum(rate(ray_ww_live_overruns_total[$__rate_interval]))"},
        ),
        Panel(
            title="Live calls refused or ended by an error",
            about="busy: more replicas. internal_error: our fault, see the log. Others: the callers'.",
            unit="suffix: /min",
            is_stacked=True,
            queries={"{{code}}": "60 * sum by (code) (rate(ray_ww_live_errors_total[$__rate_interval]))"},
        ),
        Panel(
            title="HTTP requests",
            about="By status. 5xx but 503: our fault, see the log. 503 and 429: more replicas. 4xx: the callers'.",
            unit="reqps",
            is_stacked=True,
            queries={"{{status}}": "sum by (status) (rate(ray_ww_requests_total[$__rate_interval]))"},
        ),
        Panel(
            title="Time of HTTP requests, p95",
            about="To the end of the reply, so a long file takes long.",
            unit="s",
            queries={
                "{{path}}": "histogram_quantile(0.95, sum by (le, path) "
                "(rate(ray_ww_request_seconds_bucket[$__rate_interval])))"
            },
        ),
        Panel(
            title="Sound denoised per second",
            about="What the endpoint is worth. Files are worked on faster than real time.",
            unit="suffix: s/s",
            is_stacked=True,
            queries={
                "live": "sum(rate(ray_ww_live_audio_seconds_total[$__rate_interval]))",
                "files": "sum(rate(ray_ww_file_audio_seconds_total[$__rate_interval]))",
            },
        ),
        Panel(
            title="Files in work",
            about="At --max-pending of each replica the next one is told busy.",
            unit="short",
            queries={"files": "sum(ray_ww_files)"},
        ),
        Panel(
            title="Replicas",
            about="That are healthy, as Ray Serve sees it. Fewer than there should be: see its log.",
            unit="short",
            queries={"{{deployment}}": "sum by (deployment) (ray_serve_deployment_replica_healthy)"},
        ),
    ],
)

DATA = Board(
    name="data",
    title="Wave Wizard: data and nodes",
    panels=[
        Panel(
            title="Sound mixed per second",
            about="Beside what is trained on. If mixing is no faster, it holds training up.",
            unit="suffix: s/s",
            queries={
                "mixed": "sum(rate(ray_ww_mix_audio_seconds_total[$__rate_interval]))",
                "trained on": "sum(rate(ray_ww_train_audio_seconds_total[$__rate_interval]))",
            },
        ),
        Panel(
            title="Sound mixed per second of work",
            about="Of one process. A fall: the corpus is read from afar, or the CPU is shared.",
            unit="suffix: s/s",
            queries={
                "mixed": "sum(rate(ray_ww_mix_audio_seconds_total[$__rate_interval])) "
                "/ sum(rate(ray_ww_mix_seconds_total[$__rate_interval]))"
            },
        ),
        Panel(
            title="Processes that mix",
            about="At once, on average. Few while training waits for data: no CPU is free for them.",
            unit="short",
            queries={"at work": "sum(rate(ray_ww_mix_seconds_total[$__rate_interval]))"},
        ),
        Panel(
            title="Object store",
            about="What mixed blocks wait in. In use at capacity: it spills. Give nodes a larger one.",
            unit="bytes",
            is_stacked=False,
            queries={
                "in use": 'sum(ray_object_store_memory{Location!="SPILLED"})',
                "capacity": 'sum(ray_resources{Name="object_store_memory"})',
            },
        ),
        Panel(
            title="Spilled to disk",
            about="Of the object store. Any at all costs time: a larger store, or fewer runs at once.",
            unit="bytes",
            limit=1,
            queries={"{{instance}}": 'sum by (instance) (ray_object_store_memory{Location="SPILLED"})'},
        ),
        Panel(
            title="CPUs at work",
            about="Of each node.",
            unit="percent",
            most=100,
            queries={"{{instance}}": "max by (instance) (ray_node_cpu_utilization)"},
        ),
        Panel(
            title="Memory of nodes in use",
            about="At 95 % Ray ends workers to make room.",
            unit="percentunit",
            most=1,
            limit=0.9,
            queries={"{{instance}}": "max by (instance) (ray_node_mem_used / ray_node_mem_total)"},
        ),
        Panel(
            title="Disk free",
            about="Of the disk that Ray's files lie on. At 5 % it stops spilling and runs fail.",
            unit="percentunit",
            most=1,
            queries={
                "{{instance}}": "min by (instance) "
                "(ray_node_disk_free / (ray_node_disk_free + ray_node_disk_usage))"
            },
        ),
    ],
)

SWEEPS = Board(
    name="sweeps",
    title="Wave Wizard: sweeps",
    variables={"sweep": "ray_ww_sweep_trials"},
    panels=[
        Panel(
            title="Trials",
            about="Failed ones: their errors stand in sweep.json and on the sweep's page.",
            unit="short",
            width=12,
            is_stacked=True,
            queries={"{{sweep}} {{state}}": f"max by (sweep, state) (ray_ww_sweep_trials{_SWEEP})"},
        ),
        Panel(
            title="Best score so far",
            about="Of the measure that the sweep is for. Flat for long: nothing more may come of it.",
            unit="short",
            width=12,
            queries={"{{sweep}} {{measure}}": f"max by (sweep, measure) (ray_ww_sweep_best_score{_SWEEP})"},
        ),
        Panel(
            title="Validation scores of runs",
            about="PESQ of all runs there are, trials among them.",
            unit="short",
            width=12,
            queries={"{{run}}": 'max by (run) (ray_ww_train_validation_score{measure="pesq"})'},
        ),
        Panel(
            title="Sound trained on per second, all runs",
            about="If it does not grow with --concurrent, runs take each other's CPUs.",
            unit="suffix: s/s",
            width=12,
            queries={"all": "sum(rate(ray_ww_train_audio_seconds_total[$__rate_interval]))"},
        ),
    ],
)

BOARDS = (TRAINING, SERVING, DATA, SWEEPS)


def write_boards() -> None:
    for board in BOARDS:
        (FOLDER / f"{board.name}.json").write_text(board.as_json(), encoding="utf-8")


if __name__ == "__main__":
    write_boards()

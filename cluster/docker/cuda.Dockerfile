# The image of nodes with GPUs: torch's wheel from PyPI brings CUDA; the node brings the driver.
#   docker build -f cluster/docker/cuda.Dockerfile -t registry.example.org/wave-wizard:0.1.0-cuda .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# pesq is compiled.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# What it needs first: a change of the code alone then builds in seconds.
COPY pyproject.toml constraints.txt ./
RUN python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]))' \
        > requirements.txt && \
    pip install --no-cache-dir --prefix /install -c constraints.txt -r requirements.txt
COPY README.md LICENSE ./
COPY ww_models ww_models
COPY ww_data ww_data
COPY cluster cluster
COPY jobs jobs
RUN pip install --no-cache-dir --prefix /install --no-deps .

FROM ${BASE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# KubeRay asks with wget how a node is, unless a pod says how. The account has a name, since a promotion notes who did it.
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/* && \
    useradd --uid 10001 --user-group --create-home --home-dir /home/ww --shell /bin/bash ww
COPY --from=build /install /usr/local
# The file system is read-only in a pod; /tmp, /dev/shm and the home are not.
ENV HOME=/home/ww XDG_CACHE_HOME=/home/ww/.cache MPLCONFIGDIR=/home/ww/.cache/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /home/ww
# What is built is what runs: Ray, the right torch, HAProxy.
RUN ray --version && \
    python -c 'import torch; from cluster.serving.deploy.haproxy import is_installed; assert is_installed() and torch.version.cuda'

# syntax=docker/dockerfile:1
# REALM in a container. Build: docker build -t realm .    With CUDA: docker build --build-arg TORCH=cu130 -t realm .
# Each RUN is one plain command line, so that tests/docker/run_dockerfile.py can run the same lines without an engine.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
# cpu, or the CUDA version of the wheel, as cu130. The package index alone gives the one of several GB.
ARG TORCH=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY constraints.txt ./
RUN python -m venv .venv
RUN .venv/bin/pip install -c constraints.txt --find-links https://download.pytorch.org/whl/${TORCH}/torch/ torch==2.13.0+${TORCH}
COPY pyproject.toml README.md LICENSE ./
COPY realm_lib realm_lib
# torch is named again: without it a resolver may take the package index's, of several GB.
RUN .venv/bin/pip install -c constraints.txt -e . torch==2.13.0+${TORCH}
RUN touch .venv/bin/.installed

FROM python:${PYTHON} AS run
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home realm
WORKDIR /app
COPY --from=build /app /app
COPY Makefile .env.example ./
COPY notebooks notebooks
COPY params params
COPY outputs/reference outputs/reference
RUN chown -R realm:realm /app/outputs /app/.venv/bin/.installed
# A number, so that an orchestrator can see that it is not root.
USER 10001
ENV PATH=/app/.venv/bin:$PATH HF_HUB_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1
VOLUME /app/outputs
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["realm"]
CMD ["--help"]

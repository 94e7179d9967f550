# Each image is a target:  docker build --target sidecar -t openai-server .     docker build --target worker -t anyserve-worker .
# `worker` and `worker-cuda` contain no model: docker run -v ./models:/models:ro anyserve-worker --model /models/x.gguf
# `worker-demo` is `worker` with the default model. docker-compose.yml starts it beside the sidecar.
#
# Every Python package comes from a file in requirements/, by its hash (`make lock`).

# trixie has gcc 14: older versions can't compile llama.cpp's newest arm64 variants.
ARG BASE_IMAGE=python:3.12-slim-trixie
ARG CUDA_IMAGE=nvidia/cuda:12.8.1-devel-ubuntu24.04
# Has the minor version of BASE_IMAGE's Python.
ARG PYTHON_PACKAGES=/opt/venv/lib/python3.12/site-packages
# llama.cpp for every x86-64 and arm64: one library per kind of processor; the best one is loaded at run time.
ARG LLAMA_CMAKE_ARGS="-DCMAKE_PROJECT_llama_cpp_INCLUDE=/src/native/cmake/wheel.cmake \
 -DANYSERVE_BACKEND_DIR=$PYTHON_PACKAGES/llama_cpp/lib \
 -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON"

FROM $BASE_IMAGE AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/venv/bin:$PATH
RUN groupadd --gid 10001 anyserve \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin anyserve
LABEL org.opencontainers.image.licenses="Apache-2.0" \
 org.opencontainers.image.version="0.1.0"

# Has the tools that build wheels, and an empty environment for an image's packages.
FROM base AS build
WORKDIR /src
COPY requirements/ requirements/
RUN pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/build.txt \
 && python -m venv --without-pip /opt/venv

# Packages come before our code, so that a change to the code doesn't install them again.
FROM build AS sidecar-venv
RUN pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
 -r requirements/sidecar.txt
COPY pyproject.toml README.md LICENSE ./
COPY protos/ protos/
COPY anyserve_common/ anyserve_common/
COPY openai_server/ openai_server/
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && pip --python /opt/venv/bin/python check \
 && rm /opt/venv/bin/anyserve

FROM build AS llama-cpp
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ gcc git \
 && rm -rf /var/lib/apt/lists/*
COPY native/ native/
ARG LLAMA_CMAKE_ARGS
ENV CMAKE_ARGS="$LLAMA_CMAKE_ARGS"
RUN pip wheel --no-cache-dir --require-hashes --no-deps --no-build-isolation --no-binary llama-cpp-python \
 --wheel-dir /wheels -r requirements/llama-cpp-python.txt

# The same, with a library for NVIDIA's GPUs. Without a GPU, it isn't loaded and the processor computes.
FROM $CUDA_IMAGE AS llama-cpp-cuda
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++-14 gcc-14 git python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/build
WORKDIR /src
ENV PATH=/opt/build/bin:$PATH CC=gcc-14 CXX=g++-14 CUDAHOSTCXX=g++-14
COPY requirements/ requirements/
RUN pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/build.txt
COPY native/ native/
ARG LLAMA_CMAKE_ARGS
# NCCL is in this image and not in ours, so a library that needs it couldn't be loaded.
ENV CMAKE_ARGS="$LLAMA_CMAKE_ARGS -DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF"
RUN pip wheel --no-cache-dir --require-hashes --no-deps --no-build-isolation --no-binary llama-cpp-python \
 --wheel-dir /wheels -r requirements/llama-cpp-python.txt

FROM build AS worker-packages
RUN pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
 -r requirements/worker.txt

FROM worker-packages AS worker-code
COPY pyproject.toml README.md LICENSE ./
COPY protos/ protos/
COPY anyserve_common/ anyserve_common/
COPY anyserve_worker/ anyserve_worker/
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM worker-packages AS worker-venv
COPY --from=llama-cpp /wheels /wheels
COPY --from=worker-code /wheels /wheels
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && pip --python /opt/venv/bin/python check

FROM worker-packages AS worker-cuda-venv
RUN pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
 -r requirements/cuda.txt
COPY --from=llama-cpp-cuda /wheels /wheels
COPY --from=worker-code /wheels /wheels
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && pip --python /opt/venv/bin/python check

# A list of an image's Python packages, in CycloneDX's form: /usr/share/sbom/python.cdx.json
FROM base AS sbom
WORKDIR /src
COPY requirements/sbom.txt pyproject.toml ./
RUN pip install --no-cache-dir --require-hashes --only-binary :all: -r sbom.txt

FROM sbom AS sidecar-sbom
COPY --from=sidecar-venv /opt/venv /opt/venv
RUN cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file python.cdx.json /opt/venv

FROM sbom AS worker-sbom
COPY --from=worker-venv /opt/venv /opt/venv
RUN cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file python.cdx.json /opt/venv

FROM sbom AS worker-cuda-sbom
COPY --from=worker-cuda-venv /opt/venv /opt/venv
RUN cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file python.cdx.json /opt/venv

FROM base AS model
WORKDIR /src
COPY scripts/ scripts/
RUN python -m scripts.fetch smollm2

FROM base AS sidecar
LABEL org.opencontainers.image.title="openai-server" \
 org.opencontainers.image.description="OpenAI's and Anthropic's REST APIs in front of any KServe v2 gRPC text model server"
COPY --from=sidecar-venv /opt/venv /opt/venv
COPY --from=sidecar-sbom /src/python.cdx.json /usr/share/sbom/
# The list of the files of the page at /docs.
COPY openai_server/api/docs/swagger-ui/swagger-ui.cdx.json /usr/share/sbom/
# For --store: a new volume that is mounted here gets this folder's owner and mode.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /data
ENV OPENAI_SERVER_HOST=:: OPENAI_SERVER_PORT=8080
EXPOSE 8080
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-m", "openai_server", "--healthcheck"]
ENTRYPOINT ["python", "-m", "openai_server"]

FROM base AS worker-base
LABEL org.opencontainers.image.title="anyserve-worker" \
 org.opencontainers.image.description="GGUF models on llama.cpp behind the KServe v2 gRPC protocol"
# OpenMP, which llama.cpp's threads need.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
ENV ANYSERVE_WORKER_HOST=:: ANYSERVE_WORKER_PORT=8000
EXPOSE 8000
USER 10001:10001
# Failed checks don't count within the start period: a large model loads for minutes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
  CMD ["python", "-m", "anyserve_worker", "--healthcheck"]
ENTRYPOINT ["python", "-m", "anyserve_worker"]

FROM worker-base AS worker-cuda
ARG PYTHON_PACKAGES
# The container runtime adds these parts of the host's driver.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
 LD_LIBRARY_PATH=$PYTHON_PACKAGES/nvidia/cuda_runtime/lib:$PYTHON_PACKAGES/nvidia/cublas/lib
COPY --from=worker-cuda-venv /opt/venv /opt/venv
COPY --from=worker-cuda-sbom /src/python.cdx.json /usr/share/sbom/

FROM worker-base AS worker
COPY --from=worker-venv /opt/venv /opt/venv
COPY --from=worker-sbom /src/python.cdx.json /usr/share/sbom/

FROM worker AS worker-demo
COPY --from=model /src/.models/SmolLM2-135M-Instruct.Q4_1.gguf /models/
CMD ["--model", "/models/SmolLM2-135M-Instruct.Q4_1.gguf"]

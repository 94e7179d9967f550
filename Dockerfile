# Two images:  docker build --target sidecar -t openai-server .     docker build --target worker -t anyserve-worker .
# `worker` has no model in it: docker run -v ./models:/models:ro anyserve-worker --model /models/x.gguf
# `worker-demo` is the same with the default model. docker-compose.yml starts it beside the sidecar.

# trixie for its gcc 14: older ones can't compile llama.cpp's newest arm64 variants.
FROM python:3.12-slim-trixie AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/venv/bin:$PATH
RUN groupadd --gid 10001 anyserve \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin anyserve

# The packages that both need, without our code: an edit of ours doesn't install them again.
FROM base AS packages
WORKDIR /src
COPY pyproject.toml ./
RUN python -m venv --without-pip /opt/venv \
 && touch README.md LICENSE \
 && pip --python /opt/venv/bin/python install --no-cache-dir .

FROM packages AS sidecar-venv
COPY README.md LICENSE ./
COPY protos/ protos/
COPY openai_server/ openai_server/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --force-reinstall . \
 && rm /opt/venv/bin/anyserve

# llama.cpp for every x86-64 and arm64: one library for each kind of processor, the best is loaded at run time.
FROM base AS llama-cpp
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ gcc \
 && rm -rf /var/lib/apt/lists/*
COPY scripts/llama/ /src/llama/
ARG LLAMA_CPP_PYTHON=0.3.36
ENV CMAKE_ARGS="-DCMAKE_PROJECT_llama_cpp_INCLUDE=/src/llama/wheel.cmake \
 -DANYSERVE_BACKEND_DIR=/opt/venv/lib/python3.12/site-packages/llama_cpp/lib \
 -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON"
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels "llama-cpp-python==$LLAMA_CPP_PYTHON"

FROM packages AS worker-venv
COPY --from=llama-cpp /wheels /wheels
RUN pip --python /opt/venv/bin/python install --no-cache-dir --find-links /wheels "/src[worker]"
COPY README.md LICENSE ./
COPY protos/ protos/
COPY anyserve_worker/ anyserve_worker/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --force-reinstall .

FROM base AS model
WORKDIR /src
COPY scripts/ scripts/
RUN python -m scripts.fetch smollm2

FROM base AS sidecar
COPY --from=sidecar-venv /opt/venv /opt/venv
ENV OPENAI_SERVER_HOST=0.0.0.0 OPENAI_SERVER_PORT=8080
EXPOSE 8080
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['OPENAI_SERVER_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["python", "-m", "openai_server"]

FROM base AS worker
# OpenMP, which llama.cpp's threads run on.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=worker-venv /opt/venv /opt/venv
ENV ANYSERVE_WORKER_HOST=0.0.0.0 ANYSERVE_WORKER_PORT=8000
EXPOSE 8000
USER 10001:10001
# A large model takes its time to load; until then a failed check doesn't count.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
  CMD ["python", "-m", "anyserve_worker", "--healthcheck"]
ENTRYPOINT ["python", "-m", "anyserve_worker"]

FROM worker AS worker-demo
COPY --from=model /src/.models/SmolLM2-135M-Instruct.Q4_1.gguf /models/
CMD ["--model", "/models/SmolLM2-135M-Instruct.Q4_1.gguf"]

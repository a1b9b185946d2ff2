# onelane in one image: control plane, worker, everything. Runs as a user without rights.
#   docker build -t onelane .
#   docker run --rm -p 8700:8700 -v onelane:/data onelane            all of it, with embedded Valkey and SQLite
#   docker run … onelane serve | work | migrate                      parts; see deploy/compose.yaml
FROM python:3.13-slim-trixie

RUN apt-get update \
    && apt-get install -y --no-install-recommends chromium-headless-shell libatomic1 fonts-noto-cjk fonts-noto-color-emoji \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 onelane \
    && install -d -o onelane -g onelane -m 700 /data

WORKDIR /app
# The requirements change seldom: their layer is kept while the code changes.
COPY requirements/runtime.txt requirements/runtime.txt
RUN pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY actors actors
COPY deploy/onelane-collisions.pth deploy/
COPY deploy/python deploy/python
COPY orchestrator orchestrator
COPY tenants tenants
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

USER onelane
WORKDIR /home/onelane
ENV ONELANE_DATA_DIR=/data ONELANE_HOST=0.0.0.0 PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8700
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8700/healthz', timeout=4)"]
ENTRYPOINT ["onelane"]
CMD ["up"]

# The app in the browser: docker build -t clip2clap . && docker run -p 7860:7860 clip2clap
# For a GPU: docker build --build-arg TORCH=https://download.pytorch.org/whl/cu128 -t clip2clap . and
# docker run --gpus all -p 7860:7860 clip2clap
FROM python:3.12.11-slim-bookworm AS build

ARG TORCH=https://download.pytorch.org/whl/cpu
# libsvm, of the extra for BRISQUE, comes as source.
RUN apt-get update && apt-get install --no-install-recommends -y g++ \
  && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/clip2clap
ENV PATH=/opt/clip2clap/bin:$PATH
RUN pip install --no-cache-dir "torch>=2.6,<3" "torchvision<1" --index-url "$TORCH"
COPY . /source
RUN pip install --no-cache-dir "/source[web,scores]"

FROM python:3.12.11-slim-bookworm

RUN apt-get update && apt-get install --no-install-recommends -y espeak-ng \
  && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/clip2clap /opt/clip2clap

RUN useradd --create-home --uid 1000 user
USER 1000
RUN mkdir -p /home/user/.cache/huggingface
WORKDIR /home/user
ENV PATH=/opt/clip2clap/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 7860
HEALTHCHECK --interval=30s --start-period=120s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
ENTRYPOINT ["clip2clap", "serve", "--host", "0.0.0.0", "--no-browser"]

# The app in the browser: docker build -t clip2clap . && docker run -p 7860:7860 clip2clap
# For a GPU: docker build --build-arg TORCH=https://download.pytorch.org/whl/cu128 -t clip2clap . and
# docker run --gpus all -p 7860:7860 clip2clap
FROM python:3.12.11-slim-bookworm

ARG TORCH=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install --no-install-recommends -y espeak-ng \
  && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "torch>=2.6,<3" "torchvision<1" --index-url "$TORCH"
COPY . /source
RUN pip install --no-cache-dir "/source[web,scores]" && rm -rf /source

RUN useradd --create-home --uid 1000 user
USER 1000
RUN mkdir -p /home/user/.cache/huggingface
WORKDIR /home/user
ENV PYTHONUNBUFFERED=1
EXPOSE 7860
HEALTHCHECK --interval=30s --start-period=120s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
ENTRYPOINT ["clip2clap", "serve", "--host", "0.0.0.0", "--no-browser"]

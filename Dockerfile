# docker build -t sb3-reptile .
# mkdir -p logs && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/logs:/runs/logs" sb3-reptile train --env CartPole-v1
FROM python:3.11-slim
COPY . /src
# PyTorch without CUDA; leave the index out for a GPU
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c /src/constraints.txt '/src[zoo]' \
    && mkdir -m 1777 /runs
# For every --user: PyTorch and matplotlib need a name and a folder that can be written
ENV USER=user HOME=/tmp
USER 1000:1000
WORKDIR /runs
ENTRYPOINT ["sb3-reptile"]

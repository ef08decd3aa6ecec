# docker build -t sb3-reptile . && docker run --rm -v "$PWD/logs:/home/user/logs" sb3-reptile train --env CartPole-v1
FROM python:3.11-slim
RUN useradd --create-home user
COPY . /src
# PyTorch without CUDA; leave the index out for a GPU
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c /src/constraints.txt '/src[zoo]'
USER user
WORKDIR /home/user
ENTRYPOINT ["sb3-reptile"]

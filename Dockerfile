# A single-user image for JupyterHub: the environment of the lock, the course outside the home
# volume, the same make targets that CI runs.
#   docker build -t labkit . && docker run --rm labkit make test
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --no-install-recommends -y build-essential git \
    && rm -rf /var/lib/apt/lists/*

ARG NB_USER=jovyan
ARG NB_UID=1000
RUN useradd --create-home --uid ${NB_UID} --shell /bin/bash ${NB_USER}

# PyTorch's own index, when the image is for machines without a GPU.
ARG TORCH_INDEX=""
WORKDIR /opt/labkit
RUN chown ${NB_UID} /opt/labkit
USER ${NB_UID}

# The environment changes less often than the course: its layer stays cached.
COPY --chown=${NB_UID} Makefile pyproject.toml requirements.lock README.md LICENSE ./
COPY --chown=${NB_UID} labkit/__init__.py labkit/__init__.py
RUN make install TORCH_INDEX=${TORCH_INDEX} && rm -rf /home/${NB_USER}/.cache/pip

COPY --chown=${NB_UID} . .

ENV PATH=/opt/labkit/.venv/bin:${PATH}
EXPOSE 8888
CMD ["jupyterhub-singleuser", "--ip=0.0.0.0"]

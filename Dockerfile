# A single-user image for JupyterHub: the environment of the lock, the lessons as students get
# them, the embedded model. Solutions and tests are in the stage `ci` and not in the image.
#
#   docker build -t labkit .
#   docker build -t labkit --build-arg JUPYTERHUB_VERSION=5.3.0 .        for a hub of that version
#   docker build -t labkit-ci --target ci . && docker run --rm labkit-ci make test
FROM python:3.11-slim-bookworm AS environment

RUN apt-get update \
    && apt-get install --no-install-recommends -y build-essential git \
    && rm -rf /var/lib/apt/lists/*

ARG NB_USER=jovyan
ARG NB_UID=1000
RUN useradd --create-home --uid ${NB_UID} --shell /bin/bash ${NB_USER}

# PyTorch's own index, when the image is for machines without a GPU.
ARG TORCH_INDEX=""
# A hub talks to single-user servers of its own major version; without one, the lock's.
ARG JUPYTERHUB_VERSION=""
WORKDIR /opt/labkit
RUN chown ${NB_UID} /opt/labkit
USER ${NB_UID}

# The environment changes less often than the course: its layer stays cached.
COPY --chown=${NB_UID} Makefile pyproject.toml requirements.lock README.md LICENSE ./
COPY --chown=${NB_UID} labkit/__init__.py labkit/__init__.py
RUN if [ -n "${JUPYTERHUB_VERSION}" ]; then \
      sed -i "s/^\(jupyterhub=*\).*/\1${JUPYTERHUB_VERSION}/" requirements.lock; fi \
    && make install TORCH_INDEX=${TORCH_INDEX} && rm -rf /home/${NB_USER}/.cache/pip
ENV PATH=/opt/labkit/.venv/bin:${PATH}

FROM environment AS ci
COPY --chown=${NB_UID} . .

FROM ci AS release
RUN make release GRADEBOOK=/tmp/gradebook \
    && LABKIT_CACHE=/tmp/cache labkit fetch \
    && cp -rL /tmp/cache/models /tmp/models && chmod -R a+rX,a-w /tmp/models

# What students get: the package without tests, the copies without solutions. All of it belongs to
# root and lies outside the home, which a hub covers with the student's own volume.
FROM environment AS hub
COPY labkit labkit
COPY data data
COPY --from=release /tmp/gradebook/release/lessons /opt/course
COPY --from=release /tmp/models /opt/models
COPY lessons/hub-example/jupyter /etc/jupyter
COPY lessons/hub-example/start /opt/start

ENV LABKIT_COURSE=/opt/course LABKIT_MODELS=/opt/models LABKIT_RUNS=~/lessons/runs
WORKDIR /home/jovyan
EXPOSE 8888
# A hub replaces the command and leaves the entry point alone, so the lessons always come.
ENTRYPOINT ["/opt/start"]
CMD ["jupyterhub-singleuser", "--ip=0.0.0.0"]

"""A hub on one machine: a container of the course's image for each student.

    pip install jupyterhub dockerspawner && npm install -g configurable-http-proxy
    docker build -t labkit . && jupyterhub -f jupyterhub_config.py

Students get a home volume of their own, the models read-only, and limits. The tests of the course
start a hub from this very file, with another spawner. For Kubernetes see INSTRUCTOR.md: the same
settings under their names in the chart.
"""

import os

c = get_config()  # noqa: F821

# A web server with TLS passes on to this address; nothing else may reach it.
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
c.JupyterHub.cleanup_servers = True

# Who may log in is yours to say: accounts of this machine here, or OAuth, LTI, LDAP.
c.JupyterHub.authenticator_class = "pam"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = set(os.environ.get("LABKIT_TEACHERS", "").split())

c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
c.DockerSpawner.image = "labkit"
c.DockerSpawner.remove = True
c.DockerSpawner.volumes = {
    "labkit-home-{username}": "/home/jovyan",
    "/public": {"bind": "/public", "mode": "ro"},
}
# PyTorch's worker processes pass tensors through shared memory; Docker gives 64 MB unless asked.
c.DockerSpawner.extra_host_config = {"shm_size": "1g"}

# Lesson 02 asks for 9 GiB, 08 for 8, and JupyterLab takes one besides (a G is a GiB here). `labkit
# doctor` and the status bar show a student this limit.
c.Spawner.mem_limit = "10G"
c.Spawner.cpu_limit = 2
c.Spawner.default_url = "/lab/tree/lessons/00_setup.ipynb"
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120

c.Spawner.environment = {
    "LABKIT_MODELS": "/public",  # one folder for each model
    "LABKIT_RUNS": "~/lessons/runs",  # beside the notebooks, with answers.json
    "LABKIT_PROFILE": "cpu",
    # Nothing is looked up in the network that lies in the model folder.
    "HF_HUB_OFFLINE": "1",
}

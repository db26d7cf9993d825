# remit in a container: a plain user, and the container engine's default seccomp profile, under which the required tier
# of the jail holds (Landlock, seccomp, user notification, rlimits). No extra capability or option is needed:
#   docker build -t remit . && docker run --rm remit
FROM python:3.13-slim

WORKDIR /usr/src/remit
COPY pyproject.toml LICENSE README.md ./
COPY src ./src
RUN pip install --no-cache-dir . && useradd --create-home --uid 10001 remit

USER remit
WORKDIR /home/remit
CMD ["remit", "demo"]

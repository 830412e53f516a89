# syntax=docker/dockerfile:1
# docker build -t qsmprep .                              CPU
# docker build -t qsmprep:cuda --build-arg DEVICE=cuda . CUDA (run with --gpus all)
#
# The torch wheels of the chosen kind come from TORCH_INDEX when it is given (the address of an index
# of wheels), else from the default index.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG DEVICE=cpu
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/qsmprep
ENV PATH=/opt/qsmprep/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
# torch first: it is by far the largest layer and changes least
RUN case "$DEVICE" in cpu|cuda) ;; *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1 ;; esac \
    && pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY qsmprep ./qsmprep
RUN pip install -c constraints.txt . && python -m compileall -q /opt/qsmprep/lib

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title=qsmprep \
      org.opencontainers.image.licenses=Apache-2.0
RUN useradd --create-home --uid 1000 qsmprep
COPY --from=build /opt/qsmprep /opt/qsmprep
# Nothing is fetched at run time, and caches go where any user id may write.
ENV PATH=/opt/qsmprep/bin:$PATH \
    HOME=/home/qsmprep \
    MPLCONFIGDIR=/var/cache/qsmprep \
    NUMBA_CACHE_DIR=/var/cache/qsmprep \
    TEMPLATEFLOW_HOME=/var/cache/qsmprep/templateflow \
    TEMPLATEFLOW_AUTOUPDATE=off \
    NO_ET=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONNOUSERSITE=1
RUN chmod -R a+rX /opt/qsmprep \
    && mkdir -p /var/cache/qsmprep && chmod 1777 /var/cache/qsmprep /home/qsmprep
USER qsmprep
WORKDIR /home/qsmprep
ENTRYPOINT ["qsmprep"]
CMD ["--help"]

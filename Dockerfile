# syntax=docker/dockerfile:1
# hadolint global ignore=DL3022
# (fsl-install is a build context by name, not a stage)
#
# docker build -t qsmprep .                              CPU
# docker build -t qsmprep:cuda --build-arg DEVICE=cuda . CUDA (run with --gpus all)
# docker build -t qsmprep:fsl --build-arg FSL=given --build-context fsl-install=/usr/local/fsl .
#
# TORCH_INDEX is the address of an index of torch's wheels. For the CPU image give that of the CPU builds, which torch
# names on its page of installation: the default index has the CUDA build for Linux, which makes the image several
# gigabytes larger than it need be.
#
# FSL=given copies BET and FIRST out of an FSL installation of yours. FSL's licence forbids commercial use and is not
# that of qsmprep: an image with FSL inside is under both, so it is off by default. qsmprep has a brain extraction and
# an atlas of its own and needs neither.
#
# At run time nothing is fetched, the root and the home may be read-only, and any user id will do:
# docker run --rm --init --network none --read-only --tmpfs /tmp -u "$(id -u):$(id -g)" \
#     -v /data:/data:ro -v /out:/out -v /work:/work qsmprep /data /out participant -w /work
ARG PYTHON=3.11
ARG FSL=none

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
    && if [ "$DEVICE$TORCH_INDEX" = cpu ]; then echo "no TORCH_INDEX: the default index may bring CUDA" >&2; fi \
    && pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY qsmprep ./qsmprep
RUN pip install -c constraints.txt . \
    && python -m compileall -q /opt/qsmprep/lib \
    && chmod -R a+rX /opt/qsmprep
# The weights, the atlas and the template are in the package: a build without them must not pass
WORKDIR /
RUN python -c "from qsmprep.core.methods import METHODS; from qsmprep.networks.card import find_weights; \
    [find_weights(m.model or m.name, '') for m in METHODS if m.learned]"

FROM python:${PYTHON}-slim AS fsl-none
RUN mkdir /opt/fsl

FROM python:${PYTHON}-slim AS fsl-given
COPY --from=fsl-install bin /opt/fsl/bin
COPY --from=fsl-install etc /opt/fsl/etc
COPY --from=fsl-install lib /opt/fsl/lib
COPY --from=fsl-install data/first /opt/fsl/data/first
COPY --from=fsl-install data/standard /opt/fsl/data/standard

# hadolint ignore=DL3006
FROM fsl-${FSL} AS fsl

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title=qsmprep \
      org.opencontainers.image.licenses=Apache-2.0
RUN useradd --create-home --uid 1000 qsmprep \
    && mkdir -p /var/cache/qsmprep && chmod 1777 /var/cache/qsmprep /home/qsmprep
COPY --from=fsl /opt/fsl /opt/fsl
COPY --from=build /opt/qsmprep /opt/qsmprep
# Nothing is fetched at run time, and caches go where any user id may write.
ENV PATH=/opt/qsmprep/bin:/opt/fsl/bin:$PATH \
    FSLDIR=/opt/fsl \
    FSLOUTPUTTYPE=NIFTI_GZ \
    HOME=/home/qsmprep \
    MPLCONFIGDIR=/var/cache/qsmprep \
    NUMBA_CACHE_DIR=/var/cache/qsmprep \
    TEMPLATEFLOW_HOME=/var/cache/qsmprep/templateflow \
    TEMPLATEFLOW_AUTOUPDATE=off \
    NO_ET=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONNOUSERSITE=1
USER 1000:1000
WORKDIR /home/qsmprep
ENTRYPOINT ["qsmprep"]
CMD ["--help"]

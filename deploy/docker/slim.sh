#!/bin/sh
# Takes out of an environment what a service never loads: installers, and OpenVINO for devices and formats that are not used.
set -eu
cd "$1"/lib/python3*/site-packages
rm -rf pip pip-* setuptools setuptools-* pkg_resources _distutils_hack distutils-precedence.pth
rm -rf openvino/include openvino/cmake openvino/tools openvino/torch
rm -f openvino/libs/cache.json
for part in intel_gpu_plugin intel_npu_plugin tensorflow_frontend tensorflow_lite_frontend pytorch_frontend paddle_frontend \
    gguf_frontend jax_frontend; do
    rm -f openvino/libs/libopenvino_"$part".so*
done
find . -name '*.pyi' -delete

#!/bin/sh
# slim.sh ENVIRONMENT SERVICE: takes out of an environment what a service never loads, as nothing is built or tested in it.
set -eu
cd "$1"/lib/python3*/site-packages
service=$2

# Installers and type stubs.
rm -rf pip pip-* setuptools setuptools-* pkg_resources _distutils_hack distutils-precedence.pth
find . -name '*.pyi' -delete

# OpenVINO for devices and formats that are not used.
rm -rf openvino/include openvino/cmake openvino/tools openvino/torch
rm -f openvino/libs/cache.json
for part in intel_gpu_plugin intel_npu_plugin tensorflow_frontend tensorflow_lite_frontend pytorch_frontend paddle_frontend \
    gguf_frontend jax_frontend; do
    rm -f openvino/libs/libopenvino_"$part".so*
done

# onnxruntime for programs in C: the module of Python holds the same again.
rm -f onnxruntime/capi/libonnxruntime.so*

# What torch compiles for GPUs with, and against.
rm -rf triton torch/include

# The optimizer's packages use their own tests and tools; a worker's do not.
if [ "$service" != optimizer ]; then
    find . -type d -name tests -prune -exec rm -rf {} +
    rm -rf numpy/f2py numpy/distutils pydicom/sr pydicom/data/test_files
    rm -rf onnxruntime/transformers onnxruntime/tools onnxruntime/quantization onnxruntime/datasets onnxruntime/backend
fi

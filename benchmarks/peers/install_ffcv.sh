#!/bin/sh
# Builds FFCV into the peers' environment:  benchmarks/peers/install_ffcv.sh PEERS/bin/python
#
# Of Debian it needs g++, pkg-config, libopencv-core-dev, libopencv-imgproc-dev and
# libturbojpeg0-dev. FFCV asks for all of OpenCV and uses these two parts: it is shown a header and
# a description of only them. (The source of 1.0.1 lacks a module, that of 1.0.2 is whole.)
set -eu
python=${1:?the interpreter of the peers environment}
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
mkdir "$folder/opencv2"
printf '#include <opencv2/core.hpp>\n#include <opencv2/imgproc.hpp>\n' > "$folder/opencv2/opencv.hpp"
printf 'Name: opencv\nDescription: two parts\nVersion: 4\nLibs: -lopencv_core -lopencv_imgproc\n' \
    > "$folder/opencv4.pc"
export PKG_CONFIG_PATH="$folder" CPLUS_INCLUDE_PATH="$folder:/usr/include/opencv4"
# Without its dependencies: it asks for opencv-python, which would lie over the headless one.
"$python" -m pip install --no-deps ffcv==1.0.2
"$python" -m pip install terminaltables==3.1.10 pytorch-pfn-extras==0.9.0 fastargs==1.2.0 \
    assertpy==1.1 tqdm==4.70.1 psutil==7.2.2 numba==0.68.1

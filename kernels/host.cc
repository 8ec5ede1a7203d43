/* host.cc: all kernels as one compilation of the host C++ compiler. kernels.cmake compiles it once
 * per instruction set, each time with another KERNEL_NAMESPACE. */
#include "kernels/embed.cu"
#include "kernels/norm.cu"
#include "kernels/pointwise.cu"
#include "kernels/rope.cu"
#include "kernels/attention.cu"
/* A GPU's kernels: on the CPU only the stand-in for a GPU and blocks of real threads run it. */
#ifndef __AVX2__
#include "kernels/tile_attention.cu"
#include "kernels/grouped.cu"
#endif
#include "kernels/columns.cu"
#include "kernels/scores.cu"
#include "kernels/metrics.cu"
#include "kernels/back.cu"
#include "kernels/copies.cu"
#include "kernels/experts.cu"
#include "kernels/open_back.cu"
#include "kernels/edges.cu"
#include "kernels/records.cu"
#include "kernels/functions.cu"
#include "kernels/row_functions.cu"
#include "kernels/expand.cu"
#include "kernels/table.cu"

// Replaces gcc's _tile_loadconfig, which declares 8 of 64 bytes as input; see processor.cmake and LDTILECFG in Intel's manual.
#ifdef __AMX_TILE__
#include <immintrin.h>

struct anyserve_tile_config {
    char bytes[64];
};

#undef _tile_loadconfig
#define _tile_loadconfig(config) \
    __asm__ volatile("ldtilecfg %0" : : "m"(*static_cast<const anyserve_tile_config *>(static_cast<const void *>(config))))
#endif

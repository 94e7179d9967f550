// Replaces gcc's _tile_loadconfig, which claims to read 8 bytes; see processor.cmake. Intel's manual, LDTILECFG: 64 bytes.
#ifdef __AMX_TILE__
#include <immintrin.h>

struct anyserve_tile_config {
    char bytes[64];
};

#undef _tile_loadconfig
#define _tile_loadconfig(config) \
    __asm__ volatile("ldtilecfg %0" : : "m"(*static_cast<const anyserve_tile_config *>(static_cast<const void *>(config))))
#endif

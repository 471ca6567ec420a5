# How Heed's own targets are made, in one place.

separate_arguments(LLVM_DEFINITIONS_LIST NATIVE_COMMAND ${LLVM_DEFINITIONS})

set(HEED_WARNINGS -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers)
if(HEED_SANITIZE)
  add_compile_options(-fsanitize=${HEED_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${HEED_SANITIZE})
endif()
if(HEED_FUZZERS) # coverage of everything that the fuzzers link
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

# What Heed's libraries and tools link: the shared libraries of the system, or the archives, of which the linker takes
# what is needed. Never both in one program: LLVM refuses to be there twice.
if(HEED_STATIC_LLVM)
  file(GLOB HEED_LLVM_LIBRARIES ${HEED_LLVM_PREFIX}/lib/libMLIR*.a ${HEED_LLVM_PREFIX}/lib/libLLVM*.a)
  find_library(HEED_ZSTD libzstd.a REQUIRED)
  find_library(HEED_ZLIB libz.a REQUIRED)
  list(APPEND HEED_LLVM_LIBRARIES ${HEED_ZSTD} ${HEED_ZLIB} ${CMAKE_DL_LIBS} m)
  add_link_options(-fuse-ld=lld -static-libstdc++ -static-libgcc -Wl,--gc-sections -Wl,--strip-all)
else()
  set(HEED_LLVM_LIBRARIES MLIR LLVM)
endif()

# Headers of LLVM and MLIR, as system headers; flags that match Debian's build (no RTTI, no exceptions).
function(heed_use_llvm target)
  target_include_directories(${target} SYSTEM PUBLIC ${LLVM_INCLUDE_DIRS} ${MLIR_INCLUDE_DIRS})
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR}/include ${CMAKE_BINARY_DIR}/include)
  target_compile_definitions(${target} PRIVATE ${LLVM_DEFINITIONS_LIST})
  target_compile_options(${target} PRIVATE ${HEED_WARNINGS} $<$<COMPILE_LANGUAGE:CXX>:-fno-rtti -fno-exceptions>)
endfunction()

# heed_add_library(NAME SOURCES... [LINK libs...] [DEPENDS targets...] [NO_MLIR])
# A static library of the compiler. NO_MLIR marks one that needs LLVM's Support only and skips the precompiled header.
function(heed_add_library name)
  cmake_parse_arguments(ARG "NO_MLIR" "" "LINK;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
  heed_use_llvm(${name})
  target_link_libraries(${name} PUBLIC ${ARG_LINK})
  if(ARG_NO_MLIR AND NOT HEED_STATIC_LLVM)
    target_link_libraries(${name} PUBLIC LLVM)
  else()
    target_link_libraries(${name} PUBLIC ${HEED_LLVM_LIBRARIES})
  endif()
  if(TARGET HeedPCH AND NOT ARG_NO_MLIR)
    target_precompile_headers(${name} REUSE_FROM HeedPCH)
  endif()
  if(ARG_DEPENDS)
    add_dependencies(${name} ${ARG_DEPENDS})
  endif()
endfunction()

# heed_add_tool(NAME SOURCES... [LINK libs...])
function(heed_add_tool name)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  heed_use_llvm(${name})
  target_link_libraries(${name} PRIVATE ${ARG_LINK} ${HEED_LLVM_LIBRARIES})
  # Installed tools find libMLIR.so and libLLVM.so, which Debian keeps outside the linker's path.
  set_target_properties(${name} PROPERTIES INSTALL_RPATH ${HEED_LLVM_PREFIX}/lib)
endfunction()

//===-- Probe.h - What a fresh process sees of its environment ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TEST_UNIT_RUNTIME_PROBE_H
#define HEED_TEST_UNIT_RUNTIME_PROBE_H

/// Prints the CPU features, the code that is chosen and the number of threads.
int probe();

/// Prints the devices, and how launches and forks end.
int probeGpu();

#endif // HEED_TEST_UNIT_RUNTIME_PROBE_H

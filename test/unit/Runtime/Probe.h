//===-- Probe.h - What a fresh process sees of its environment ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TEST_UNIT_RUNTIME_PROBE_H
#define HEED_TEST_UNIT_RUNTIME_PROBE_H

#include <stdio.h>
#include <string>
#include <unistd.h>

/// Prints the CPU features, the code that is chosen and the number of threads.
int probe();

/// Prints the devices, and how launches and forks end.
int probeGpu();

/// The output, errors included, of this program with `flag`, under `env environment`.
inline std::string outputOfProbe(const std::string &environment, const std::string &flag) {
  char self[4096];
  ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
  if (length <= 0)
    return "no /proc/self/exe";
  self[length] = 0;
  std::string command = "env " + environment + " '" + self + "' " + flag + " 2>&1";
  FILE *pipe = popen(command.c_str(), "r");
  std::string result;
  char buffer[512];
  while (size_t n = fread(buffer, 1, sizeof(buffer), pipe))
    result.append(buffer, n);
  pclose(pipe);
  return result;
}

#endif // HEED_TEST_UNIT_RUNTIME_PROBE_H

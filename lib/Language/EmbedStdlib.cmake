# Writes OUTPUT, an array of {name, text} for the .heed files in INPUTS (separated by ':').
# Run as a script: cmake -DINPUTS=... -DOUTPUT=... -P EmbedStdlib.cmake
string(REPLACE ":" ";" INPUTS "${INPUTS}")
set(content "// Made by EmbedStdlib.cmake from lib/Language/Stdlib. Do not edit.\n")
foreach(input IN LISTS INPUTS)
  get_filename_component(name "${input}" NAME_WE)
  file(READ "${input}" text)
  string(APPEND content "{\"${name}\", R\"heed(${text})heed\"},\n")
endforeach()
file(WRITE "${OUTPUT}" "${content}")
